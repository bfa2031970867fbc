package faults;

import java.nio.charset.StandardCharsets;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;

/** Starts processes: {@code "<way> <what>"}. */
public final class Children {
    private static final Queue<Process> KEPT = new ConcurrentLinkedQueue<>();

    private Children() {
    }

    static byte[] call(byte[] request) throws Exception {
        String[] words = new String(request, StandardCharsets.UTF_8).split(" ", 2);
        Process process = new ProcessBuilder("/bin/sh", "-c", words[1]).inheritIO().start();
        long answer;
        switch (words[0]) {
            case "start":
                KEPT.add(process);
                answer = process.pid();
                break;
            case "killed":
                process.destroy();
                // What Java makes of a signal.
                answer = process.waitFor() - 128;
                break;
            default:
                answer = process.waitFor();
        }
        return Long.toString(answer).getBytes(StandardCharsets.UTF_8);
    }
}
