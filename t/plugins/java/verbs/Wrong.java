package verbs;

/** Classes that cannot be loaded, each for a reason of its own. */
final class Wrong {
    private Wrong() {}

    static final class Parameters {
        static byte[] call(String request) {
            return null;
        }

        static byte[] call(byte[] request, int more) {
            return null;
        }
    }

    static final class Result {
        static String call(byte[] request) {
            return null;
        }
    }

    static final class Several {
        static byte[] call(byte[] request) {
            return null;
        }

        static void call(java.nio.ByteBuffer request) {}
    }

    static final class Constructor {
        Constructor(int number) {}

        byte[] call(byte[] request) {
            return null;
        }
    }

    abstract static class Unfinished {
        byte[] call(byte[] request) {
            return null;
        }
    }

    static final class Initializer {
        static final int NUMBER = Integer.parseInt("ten");

        static byte[] call(byte[] request) {
            return null;
        }
    }

    /** Not wrong, but all is inherited, and the constructor takes the config. */
    static final class Child extends Parent {
        Child(String config) {
            super(config + "!");
        }

        @Override
        byte[] call(byte[] request) {
            return answer.getBytes();
        }
    }

    static class Parent {
        final String answer;

        Parent(String answer) {
            this.answer = answer;
        }

        byte[] call(byte[] request) {
            return null;
        }

        byte[] inherited(byte[] request) {
            return answer.getBytes();
        }
    }
}
