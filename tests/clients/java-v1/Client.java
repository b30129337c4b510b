import com.amazonaws.Request;
import com.amazonaws.client.builder.AwsClientBuilder.EndpointConfiguration;
import com.amazonaws.handlers.RequestHandler2;
import com.amazonaws.Response;
import com.amazonaws.services.securitytoken.AWSSecurityTokenService;
import com.amazonaws.services.securitytoken.AWSSecurityTokenServiceClientBuilder;
import com.amazonaws.services.securitytoken.model.GetCallerIdentityRequest;
import java.io.BufferedReader;
import java.io.InputStreamReader;

/**
 * Version 1 of the AWS SDK for Java as an agent has it: for each line of input, one call of STS and
 * one line of JSON. Credentials, retries and timeouts are what the SDK makes of its surroundings.
 * It does not read the endpoint of STS itself.
 */
class Client extends RequestHandler2 {
    private AWSSecurityTokenService sts;
    private String accessKeyId;

    public static void main(String[] arguments) {
        var client = new Client();
        var lines = new BufferedReader(new InputStreamReader(System.in)).lines();
        lines.forEach(line -> System.out.println(client.call()));
    }

    private String call() {
        try {
            // Here and not above: no client is built without a region, for one.
            if (sts == null) {
                var endpoint = System.getenv("AWS_ENDPOINT_URL_STS");
                var region = System.getenv("AWS_REGION");
                sts = AWSSecurityTokenServiceClientBuilder.standard()
                        .withEndpointConfiguration(new EndpointConfiguration(endpoint, region))
                        .withRequestHandlers(this)
                        .build();
            }
            var arn = sts.getCallerIdentity(new GetCallerIdentityRequest()).getArn();
            return "{\"arn\":%s,\"accessKeyId\":%s}".formatted(quoted(arn), quoted(accessKeyId));
        } catch (RuntimeException error) {
            return "{\"error\":%s}".formatted(quoted(String.valueOf(error.getMessage())));
        }
    }

    /** Asking the client for its credentials could fetch new ones. */
    @Override
    public void afterResponse(Request<?> request, Response<?> response) {
        var header = request.getHeaders().get("Authorization");
        accessKeyId = header.replaceFirst(".*Credential=([^/]+).*", "$1");
    }

    private static String quoted(String text) {
        var line = text.replaceAll("[\\s\\p{Cntrl}]+", " ");
        return '"' + line.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }
}
