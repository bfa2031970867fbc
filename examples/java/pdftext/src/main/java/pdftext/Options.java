package pdftext;

import io.github.nonblockingffi.CallException;

/**
 * {@code key=value} words: of the config, and of a request's first line.
 *
 * @param firstPage counted from 1
 * @param lastPage the last page, too; documents may have less
 * @param maxPages what a call may ask for
 * @param memory bytes that a document may take in the heap; the rest goes to a
 *     temporary file
 */
record Options(int firstPage, int lastPage, int maxPages, long memory) {
    static final int BAD_REQUEST = 400;

    static final Options DEFAULT = new Options(1, Integer.MAX_VALUE, 1000, 16 << 20);

    /** These, but for what the words say. */
    Options with(String words, boolean ofRequest) {
        Options options = this;
        for (String word : words.strip().split("\\s+")) {
            if (!word.isEmpty()) {
                options = options.with(word, word.indexOf('='), ofRequest);
            }
        }
        return options;
    }

    private Options with(String word, int equals, boolean ofRequest) {
        String key = equals < 0 ? word : word.substring(0, equals);
        String value = equals < 0 ? "" : word.substring(equals + 1);
        try {
            switch (key) {
                case "pages":
                    int dash = value.indexOf('-');
                    int first = positive(dash < 0 ? value : value.substring(0, dash));
                    int last = dash < 0 ? first : positive(value.substring(dash + 1));
                    return new Options(first, last, maxPages, memory);
                case "max_pages":
                    if (!ofRequest) {
                        return new Options(firstPage, lastPage, positive(value), memory);
                    }
                    break;
                case "memory":
                    if (!ofRequest) {
                        return new Options(firstPage, lastPage, maxPages, positive(value));
                    }
                    break;
                default:
            }
        } catch (NumberFormatException wrong) {
            throw new CallException(BAD_REQUEST, "bad option: " + word);
        }
        throw new CallException(BAD_REQUEST, "unknown option: " + key);
    }

    private static int positive(String text) {
        int number = Integer.parseInt(text);
        if (number < 1) {
            throw new NumberFormatException(text);
        }
        return number;
    }
}
