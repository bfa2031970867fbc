/** Version 1 of a class. */
public final class Greeter {
    private static int calls;

    private Greeter() {}

    static byte[] call(byte[] request) {
        calls++;
        return ("version 1, call " + calls).getBytes();
    }
}
