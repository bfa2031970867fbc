package faults;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;

/** How a worker ends: {@code "<verb> <argument>"}. */
public final class Ending {
    private Ending() {
    }

    static byte[] call(byte[] request) throws Exception {
        String[] words = new String(request, StandardCharsets.UTF_8).split(" ", 2);
        switch (words[0]) {
            case "hook":
                Path path = Paths.get(words[1]);
                hook(() -> Files.write(path, "hook".getBytes(StandardCharsets.UTF_8)));
                break;
            case "exit":
                // Is refused: see ExitGuard.java.
                hook(() -> System.exit(2));
                break;
            default:
                throw new IllegalArgumentException(words[0]);
        }
        return "done".getBytes(StandardCharsets.UTF_8);
    }

    private interface Work {
        void run() throws Exception;
    }

    private static void hook(Work work) {
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                work.run();
            } catch (Exception thrown) {
                thrown.printStackTrace();
            }
        }));
    }
}
