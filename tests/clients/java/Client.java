import java.io.BufferedReader;
import java.io.InputStreamReader;
import software.amazon.awssdk.core.interceptor.Context;
import software.amazon.awssdk.core.interceptor.ExecutionAttributes;
import software.amazon.awssdk.core.interceptor.ExecutionInterceptor;
import software.amazon.awssdk.services.sts.StsClient;

/**
 * The AWS SDK for Java as an agent has it: for each line of input, one call of STS and one line of
 * JSON. Credentials, endpoint, retries and timeouts are what the SDK makes of its surroundings.
 */
class Client implements ExecutionInterceptor {
    private StsClient sts;
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
                sts = StsClient.builder()
                        .overrideConfiguration(it -> it.addExecutionInterceptor(this))
                        .build();
            }
            var arn = sts.getCallerIdentity().arn();
            return "{\"arn\":%s,\"accessKeyId\":%s}".formatted(quoted(arn), quoted(accessKeyId));
        } catch (RuntimeException error) {
            return "{\"error\":%s}".formatted(quoted(String.valueOf(error.getMessage())));
        }
    }

    /** Asking the client for its credentials could fetch new ones. */
    @Override
    public void beforeTransmission(Context.BeforeTransmission call, ExecutionAttributes attributes) {
        var header = call.httpRequest().firstMatchingHeader("Authorization").orElseThrow();
        accessKeyId = header.replaceFirst(".*Credential=([^/]+).*", "$1");
    }

    private static String quoted(String text) {
        var line = text.replaceAll("[\\s\\p{Cntrl}]+", " ");
        return '"' + line.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }
}
