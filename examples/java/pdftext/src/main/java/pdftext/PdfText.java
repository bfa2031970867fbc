package pdftext;

import io.github.nonblockingffi.CallException;
import io.github.nonblockingffi.Context;
import io.github.nonblockingffi.Host;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import org.apache.pdfbox.io.MemoryUsageSetting;
import org.apache.pdfbox.pdmodel.PDDocument;
import org.apache.pdfbox.pdmodel.encryption.InvalidPasswordException;
import org.apache.pdfbox.text.PDFTextStripper;

/**
 * The text of a PDF document, with Apache PDFBox. The request is the document, or
 * a line of options that begins with {@code @}, and the document; the response is
 * the text in UTF-8, with a form feed behind each page. See the README.
 */
public final class PdfText {
    private static final int TOO_LARGE = 413;
    private static final int UNSUPPORTED = 415;
    private static final int BROKEN = 422;
    private static final int LOCKED = 423;
    private static final int CANCELLED = 499;
    /** A line of options that does not end soon is none. */
    private static final int LINE = 1000;

    private final Options options;

    /** Reads the options in the config. */
    public PdfText(Host host) {
        options = Options.DEFAULT.with(host.config(), false);
    }

    /** Extracts the text. */
    public byte[] call(byte[] request, Context context) {
        int start = 0;
        Options options = this.options;
        if (request.length > 0 && request[0] == '@') {
            start = endOfLine(request) + 1;
            String words = new String(request, 1, start - 1, StandardCharsets.UTF_8);
            options = options.with(words, true);
        }
        if (!isPdf(request, start)) {
            throw new CallException(UNSUPPORTED, "not a PDF document");
        }
        MemoryUsageSetting memory = MemoryUsageSetting.setupMixed(options.memory());
        var input = new ByteArrayInputStream(request, start, request.length - start);
        try (PDDocument document = PDDocument.load(input, memory)) {
            return text(document, options, context);
        } catch (InvalidPasswordException locked) {
            throw new CallException(LOCKED, "the document has a password");
        } catch (IOException broken) {
            throw new CallException(BROKEN, broken.getMessage());
        }
    }

    private static byte[] text(PDDocument document, Options options, Context context)
            throws IOException {
        int first = options.firstPage();
        int last = Math.min(options.lastPage(), document.getNumberOfPages());
        if (last - first >= options.maxPages()) {
            throw new CallException(TOO_LARGE, "more than " + options.maxPages() + " pages");
        }
        PDFTextStripper stripper = new PDFTextStripper();
        StringWriter text = new StringWriter();
        for (int page = first; page <= last; page++) {
            if (context.isCancelled()) {
                throw new CallException(CANCELLED, "cancelled");
            }
            stripper.setStartPage(page);
            stripper.setEndPage(page);
            stripper.writeText(document, text);
            text.append('\f');
        }
        String title = document.getDocumentInformation().getTitle();
        context.setStatus(0, document.getNumberOfPages() + " pages"
                + (title == null ? "" : ": " + title));
        return text.toString().getBytes(StandardCharsets.UTF_8);
    }

    private static int endOfLine(byte[] request) {
        for (int i = 0; i < Math.min(request.length, LINE); i++) {
            if (request[i] == '\n') {
                return i;
            }
        }
        throw new CallException(Options.BAD_REQUEST, "the line of options does not end");
    }

    /** The mark is somewhere in the first kilobyte. */
    private static boolean isPdf(byte[] request, int start) {
        int length = Math.min(request.length - start, 1024);
        return new String(request, start, length, StandardCharsets.ISO_8859_1).contains("%PDF-");
    }
}
