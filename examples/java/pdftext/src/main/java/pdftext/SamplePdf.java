package pdftext;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.pdfbox.pdmodel.PDDocument;
import org.apache.pdfbox.pdmodel.PDPage;
import org.apache.pdfbox.pdmodel.PDPageContentStream;
import org.apache.pdfbox.pdmodel.encryption.AccessPermission;
import org.apache.pdfbox.pdmodel.encryption.StandardProtectionPolicy;
import org.apache.pdfbox.pdmodel.font.PDType1Font;

/**
 * Writes documents to try {@link PdfText} with: as a program,
 * {@code SamplePdf <pages> <file>}; as a runtime, a request {@code <pages>}, or
 * {@code <pages> <password>}, is answered with the document.
 */
public final class SamplePdf {
    private static final int LINES = 40;

    private SamplePdf() {}

    /** Answers with a document. */
    public static byte[] call(byte[] request) throws IOException {
        String[] words = new String(request, StandardCharsets.UTF_8).split(" ");
        return write(Integer.parseInt(words[0]), words.length > 1 ? words[1] : null);
    }

    /** Writes one to a file. */
    public static void main(String[] arguments) throws IOException {
        Files.write(Path.of(arguments[1]), write(Integer.parseInt(arguments[0]), null));
    }

    private static byte[] write(int pages, String password) throws IOException {
        try (PDDocument document = new PDDocument()) {
            document.getDocumentInformation().setTitle("A sample");
            for (int number = 1; number <= pages; number++) {
                PDPage page = new PDPage();
                document.addPage(page);
                try (PDPageContentStream content = new PDPageContentStream(document, page)) {
                    write(content, number);
                }
            }
            if (password != null) {
                document.protect(new StandardProtectionPolicy(
                        password, password, new AccessPermission()));
            }
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            document.save(bytes);
            return bytes.toByteArray();
        }
    }

    private static void write(PDPageContentStream content, int number) throws IOException {
        content.beginText();
        content.setFont(PDType1Font.HELVETICA, 12);
        content.setLeading(16);
        content.newLineAtOffset(50, 740);
        content.showText("Page " + number);
        for (int line = 1; line <= LINES; line++) {
            content.newLine();
            content.showText("Line " + line + " of page " + number
                    + ": the quick brown fox jumps over the lazy dog.");
        }
        content.endText();
    }
}
