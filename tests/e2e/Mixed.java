import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Sends mixed requests with Java's HttpClient, and checks each body by its hash. Arguments: the number of requests, then the
 * URLs of servers as tests/world/mixed.js, which are asked in turn.
 */
class Mixed {
  static final int MIB = 1024 * 1024;
  static final int WORKERS = 32;
  static final byte[] POOL = new byte[MIB];
  static final String[] METHODS = {"GET", "POST", "GET", "POST", "HEAD"};

  public static void main(String[] arguments) throws Exception {
    int count = Integer.parseInt(arguments[0]);
    String[] servers = Arrays.copyOfRange(arguments, 1, arguments.length);
    new Random(1).nextBytes(POOL);
    HttpClient client = HttpClient.newHttpClient(); // it offers h2c to a server that it doesn't know
    AtomicInteger next = new AtomicInteger();
    var threads = Executors.newFixedThreadPool(WORKERS);
    List<Future<?>> workers = new ArrayList<>();
    for (int worker = 0; worker < WORKERS; worker++) {
      workers.add(threads.submit(() -> {
        for (int number; (number = next.getAndIncrement()) < count; ) one(client, servers[number % servers.length], number);
        return null;
      }));
    }
    for (Future<?> worker : workers) worker.get();
    System.out.println(count + " checked");
    System.exit(0);
  }

  static void one(HttpClient client, String server, int number) throws Exception {
    String method = METHODS[number % METHODS.length];
    int size = size(number);
    String options = (number % 3 == 0 ? "chunked&" : "") + (number % 23 == 0 ? "close" : "");
    byte[] sent = method.equals("POST") ? Arrays.copyOf(POOL, size) : new byte[0];
    BodyPublisher body = number % 7 < 3 // of unknown length, so it is sent chunked
        ? BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(sent))
        : BodyPublishers.ofByteArray(sent);
    HttpRequest request = HttpRequest.newBuilder(URI.create(server + "/" + number + "/" + size + "?" + options))
        .method(method, method.equals("POST") ? body : BodyPublishers.noBody())
        .build();
    HttpResponse<byte[]> answer = client.send(request, BodyHandlers.ofByteArray());
    byte[] got = answer.body();
    String told = method + " " + number + " of " + size + " bytes";
    check(answer.statusCode() == 200, told, "status " + answer.statusCode());
    check(field(answer, "x-number").equals("" + number), told, "the response to another request");
    switch (method) {
      case "HEAD" -> check(got.length == 0, told, "a body for HEAD");
      case "GET" -> check(got.length == size, told, got.length + " bytes");
      default -> check(new String(got).equals(size + " " + sha256(sent)), told, "the upload has another hash");
    }
    if (!method.equals("HEAD")) check(field(answer, "x-sha256").equals(sha256(got)), told, "another hash");
  }

  static int size(int number) { // from 0 to 1 MiB, most of them small
    if (number % 500 < 2) return number % 500 * MIB;
    return (int) Math.pow(2, 20 * Math.pow(number * 0.618034 % 1, 2)) - 1;
  }

  static String field(HttpResponse<?> answer, String name) {
    return answer.headers().firstValue(name).orElse("");
  }

  static String sha256(byte[] bytes) throws Exception {
    return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
  }

  static void check(boolean holds, String told, String problem) {
    if (!holds) throw new IllegalStateException(told + ": " + problem);
  }
}
