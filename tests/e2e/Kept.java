import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpClient.Version;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.Arrays;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Asks for two responses on one connection with Java's HttpClient. Arguments: cases and base URLs. Prints a line for each,
 * as kept.py.
 */
class Kept {
  public static void main(String[] arguments) throws Exception {
    for (String base : Arrays.copyOfRange(arguments, 1, arguments.length)) {
      for (String name : arguments[0].split(",")) {
        HttpClient client = HttpClient.newBuilder().version(Version.HTTP_1_1).build(); // offers no h2c, which isn't framed
        String first = outcome(client, base + "/" + name.replace(" ", "%20"));
        System.out.println(name + " | " + first.strip() + " | " + outcome(client, base + "/after"));
      }
    }
    System.exit(0);
  }

  static String outcome(HttpClient client, String url) throws InterruptedException {
    HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
    try { // a request's own timeout ends with the head of the response
      HttpResponse<String> answer = client.sendAsync(request, BodyHandlers.ofString()).get(20, TimeUnit.SECONDS);
      return answer.statusCode() + " " + answer.body();
    } catch (ExecutionException error) {
      return error.getCause().getClass().getSimpleName();
    } catch (TimeoutException error) {
      return "TimeoutException";
    }
  }
}
