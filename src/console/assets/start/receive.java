import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.security.MessageDigest;
import java.util.HexFormat;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class Receive {
  public static void main(String[] args) throws Exception {
    byte[] secret = System.getenv("TIDINGS_SIGNING_SECRET").getBytes();
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 9000), 0);
    server.createContext("/", exchange -> {
      byte[] body = exchange.getRequestBody().readAllBytes();
      var headers = exchange.getRequestHeaders();
      boolean genuine = false;
      try {
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(secret, "HmacSHA256"));
        mac.update((headers.getFirst("X-Chatwoot-Timestamp") + ".").getBytes());
        String expected = "sha256=" + HexFormat.of().formatHex(mac.doFinal(body));
        genuine = MessageDigest.isEqual(
            expected.getBytes(), String.valueOf(headers.getFirst("X-Chatwoot-Signature")).getBytes());
      } catch (java.security.GeneralSecurityException e) {
        throw new java.io.IOException(e);
      }
      exchange.sendResponseHeaders(genuine ? 204 : 401, -1);
      exchange.close();
      System.out.println(headers.getFirst("webhook-id") + " " + genuine + " " + new String(body));
    });
    server.start();
  }
}
