import aws.sdk.kotlin.services.sts.StsClient
import aws.sdk.kotlin.services.sts.getCallerIdentity
import aws.smithy.kotlin.runtime.client.ProtocolRequestInterceptorContext
import aws.smithy.kotlin.runtime.http.interceptors.HttpInterceptor
import aws.smithy.kotlin.runtime.http.request.HttpRequest
import kotlinx.coroutines.runBlocking

/**
 * The AWS SDK for Kotlin as an agent has it: for each line of input, one call of STS and one line of
 * JSON. Credentials, endpoint, retries and timeouts are what the SDK makes of its surroundings.
 */
fun main() = runBlocking {
    var sts: StsClient? = null
    while (readlnOrNull() != null) {
        val answer = try {
            // Here and not above: no client is built without a region, for one.
            val client = sts ?: StsClient.fromEnvironment { interceptors += Key }
            sts = client
            val arn = client.getCallerIdentity {}.arn.orEmpty()
            """{"arn":${quoted(arn)},"accessKeyId":${quoted(Key.id)}}"""
        } catch (error: Exception) {
            """{"error":${quoted(error.message.orEmpty())}}"""
        }
        println(answer)
    }
}

/** Asking the client for its credentials could fetch new ones. */
private object Key : HttpInterceptor {
    var id = ""

    override fun readBeforeTransmit(context: ProtocolRequestInterceptorContext<Any, HttpRequest>) {
        val header = context.protocolRequest.headers["Authorization"].orEmpty()
        id = header.substringAfter("Credential=").substringBefore('/')
    }
}

private fun quoted(text: String): String {
    val line = text.replace(Regex("[\\s\\p{Cntrl}]+"), " ")
    return '"' + line.replace("\\", "\\\\").replace("\"", "\\\"") + '"'
}
