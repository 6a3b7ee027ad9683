// java Client.java URL PHOTO COUNT [1.1]: COUNT photos as multipart and COUNT as raw bytes over one HttpClient, by default
// with a wish for HTTP/2 (Upgrade: h2c) in every request. Prints each label and how often it came.

import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class Client {
    private static final Pattern LABEL = Pattern.compile("\"prediction\":\"([^\"]+)\"");

    public static void main(String[] args) throws Exception {
        HttpClient.Builder builder = HttpClient.newBuilder();
        if (args.length > 3) {
            builder.version(HttpClient.Version.HTTP_1_1);
        }
        HttpClient client = builder.build();
        byte[] photo = Files.readAllBytes(Path.of(args[1]));
        ByteArrayOutputStream form = new ByteArrayOutputStream();
        form.write("--cut\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n".getBytes());
        form.write(photo);
        form.write("\r\n--cut--\r\n".getBytes());
        Map<String, Integer> labels = new TreeMap<>();
        for (int i = 0; i < Integer.parseInt(args[2]); i++) {
            ask(client, args[0], "multipart/form-data; boundary=cut", form.toByteArray(), labels);
            ask(client, args[0], "image/png", photo, labels);
        }
        labels.forEach((label, count) -> System.out.println(label + "\t" + count));
    }

    private static void ask(HttpClient client, String url, String type, byte[] body, Map<String, Integer> labels)
            throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url))
                .header("Content-Type", type).POST(BodyPublishers.ofByteArray(body)).build();
        HttpResponse<String> answer = client.send(request, BodyHandlers.ofString());
        Matcher found = LABEL.matcher(answer.body());
        labels.merge(found.find() ? found.group(1) : answer.statusCode() + " " + answer.body(), 1, Integer::sum);
    }
}
