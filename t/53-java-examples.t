# The examples in Java.

BEGIN {
    my @built = ('target/release/libnonblocking_ffi_java.so',
                 'target/examples/template.jar', 'target/examples/pdftext.jar');
    if (grep { !-e } @built) {
        print "1..0 # SKIP built without a JDK or PDFBox (see runtimes/java/build.sh)\n";
        exit 0;
    }
}

use lib '.';
use t::TestNbffi;

our $HttpConfig = q{
    init_by_lua_block {
        function pdf(class, given)
            local nbffi = require "resty.nonblocking_ffi"
            local options = {
                language = "java", entry = "pdftext." .. class .. "#call",
                class_path = {
                    "$TEST_NGINX_PWD/target/examples/pdftext.jar",
                    "/usr/share/java/pdfbox2.jar",
                    "/usr/share/java/fontbox2.jar",
                    "/usr/share/java/commons-logging.jar",
                },
                jvm_args = { "-Xmx128m" },
            }
            for key, value in pairs(given or {}) do
                options[key] = value
            end
            return assert(nbffi.load(options))
        end
    }
};

log_level('info');
repeat_each(2);
plan tests => repeat_each() * (blocks() * 3);
run_tests();

__DATA__

=== TEST 1: the template
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load{
    language = "java", entry = "Template#call", config = "Hello, ",
    class_path = "$TEST_NGINX_PWD/target/examples/template.jar",
})
ngx.say(rt:call("world"))
local res, err, code = rt:call("")
ngx.say(res, " ", err, " ", code)
--- response_body
Hello, world
nil runtime error: nothing to do 400



=== TEST 2: the text of a document, of its pages, and its title
--- lua
local document = pdf("SamplePdf"):call("12")
local text, err, code, message = pdf("PdfText"):call(document)
ngx.say(code, " ", message)
ngx.say(text:match("^[^\n]*\n[^\n]*"))
ngx.say(select(2, text:gsub("\f", "")), " ",
        select(2, text:gsub("quick brown fox", "")))
text = pdf("PdfText"):call { "@pages=3-4\n", document }
for page in text:gmatch("Page %d+") do ngx.say(page) end
text = pdf("PdfText"):call { "@ pages=12\n", document }
for page in text:gmatch("Page %d+") do ngx.say(page) end
--- response_body
0 12 pages: A sample
Page 1
Line 1 of page 1: the quick brown fox jumps over the lazy dog.
12 480
Page 3
Page 4
Page 12



=== TEST 3: what is wrong has a code
--- lua
local sample, rt = pdf("SamplePdf"), pdf("PdfText", { config = "max_pages=5" })
local document = sample:call("6")
local function try(request)
    local res, err, code, message = rt:call(request)
    ngx.say(code, " ", res and #res > 100 or message)
end
try("hello")
try("")
try("@no end")
try { "@pages=0\n", document }
try { "@max_pages=9\n", document }
try(document)
try { "@pages=2-6\n", document }
try(sample:call("3 secret"))
try(document:sub(1, 100))
--- response_body_like eval
qr/^415 not a PDF document
415 not a PDF document
400 the line of options does not end
400 bad option: pages=0
400 unknown option: max_pages
413 more than 5 pages
0 true
423 the document has a password
422 .+
$/



=== TEST 4: many at a time, and one that takes too long
--- lua
local nbffi = require "resty.nonblocking_ffi"
local sample, rt = pdf("SamplePdf"), pdf("PdfText")
local documents, futures = {}, {}
for i = 1, 10 do documents[i] = sample:call(tostring(i)) end
for i = 1, 100 do futures[i] = rt:submit(documents[i % 10 + 1]) end
local texts, errors = nbffi.wait_all(futures)
local wrong = next(errors) and 1 or 0
for i = 1, 100 do
    if select(2, texts[i]:gsub("\f", "")) ~= i % 10 + 1 then
        wrong = wrong + 1
    end
end
ngx.say("wrong: ", wrong)
local large = sample:call("1000")
ngx.say((select(2, rt:call(large, { timeout = 0.01 }))))
--- response_body
wrong: 0
timeout
