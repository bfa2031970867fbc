//! Runtimes that are loaded and closed, again and again, in every language: a worker
//! may do so for months.
//!
//! How often is `Size::Cycles`: with `make soak`, 100,000 times.

use std::fs;

use support::plugins::has;
use support::{Nginx, Size, eventually, in_turns, process};

const LANGUAGES: &str = "
local ffi = require 'ffi'
ffi.cdef [[
    typedef struct {
        size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks,
               fordblks, keepcost;
    } nbffi_test_mallinfo;
    nbffi_test_mallinfo mallinfo2(void);
]]

require 'resty_ffi'

local options = {
    c = { runtime = 'c', library = 'echo' },
    rust = { runtime = 'c', library = 'blocking' },
    lua = { runtime = 'lua', module = 'string' },
    python = { runtime = 'python', entry = 'cycles:call', path = 'lib' },
    go = { runtime = 'go', library = 'go_verbs', entry = 'do' },
    java = { runtime = 'java', entry = 'faults.Faults#call', class_path = 'lib/java',
             jvm_args = { '-Xmx32m', '-Xms32m', '-XX:MaxMetaspaceSize=64m',
                          '-XX:ReservedCodeCacheSize=32m' } },
}

local calls = {
    c = { 'hello' }, rust = { 'sleep 0' }, lua = { 'rep', 'x', 3 },
    python = { 'hello' }, go = { 'sleep 0' }, java = { 'echo' },
}

local function cycle(language)
    if language == 'resty_ffi' then
        local rt = assert(ngx.load_ffi('rffi'))
        assert(rt:any('echo hello'))
        local inner = rt[1]
        rt:__unload()
        assert(inner:close(20))
        return
    end
    local given = options[language]
    if language == 'java' then
        given.config = harness.counters
    end
    local rt = assert(nbffi.load(given))
    assert(rt:call(unpack(calls[language])))
    assert(rt:close())
end

function cycles(language, number)
    for _ = 1, number do
        cycle(language)
    end
end

-- Bytes that malloc has given.
function given()
    collectgarbage()
    collectgarbage()
    local info = ffi.C.mallinfo2()
    return tonumber(info.uordblks + info.hblkhd)
end
";

/// Starts an nginx that has all languages of this machine, and names these.
fn start() -> (Nginx, Vec<&'static str>) {
    let mut languages = vec!["c", "rust", "lua", "resty_ffi"];
    // Java is the last: its compilers take memory whenever they like.
    languages.extend(
        ["python", "go", "java"]
            .into_iter()
            .filter(|name| has(name)),
    );
    let nginx = Nginx::builder()
        .plugin("blocking")
        .copy("target/test-plugins/librffi.so", "lib/librffi.so")
        .language("python")
        .language("java")
        .language("go")
        .setup("threads = 2")
        .init(LANGUAGES)
        .location(
            "/cycles",
            "local language, number = ngx.var.args:match('([%a_]+)-(%d+)')
             cycles(language, tonumber(number))
             ngx.print('done')",
        )
        .location("/given", "ngx.print(('%d'):format(given()))")
        .start();
    let module = "def call(request):\n    return request\n";
    fs::write(nginx.dir().join("prefix/lib/cycles.py"), module).unwrap();
    (nginx, languages)
}

/// How often, usually: that of a language that takes long is a tenth.
const USUAL: u64 = 2000;
/// Cycles per request, so that none takes longer than the client waits.
const AT_ONCE: u64 = 500;
/// Bytes of malloc's by which the worker may grow at all, and with each cycle.
const MOST: i64 = 48 << 10;
const MOST_EACH: i64 = 4;
/// The same of all its memory: heaps of languages grow before they are tidied.
const MOST_RSS: i64 = 16 << 20;
const MOST_RSS_EACH: i64 = 64;

#[test]
fn what_is_loaded_and_closed_leaves_nothing() {
    let (nginx, languages) = start();
    let worker = nginx.worker();
    for language in languages {
        let slow = matches!(language, "lua" | "python" | "java");
        let cycles = Size::Cycles.or(if slow { USUAL / 10 } else { USUAL });
        let run = |number: u64| {
            in_turns(number, AT_ONCE, |now| {
                let text = nginx.text(&format!("/cycles?{language}-{now}"));
                assert_eq!(text, "done", "{language}");
            });
        };
        let figures = || {
            let given: i64 = nginx.text("/given").parse().unwrap();
            (given, process::rss(worker) as i64 * 1024)
        };
        // What grows up to some bound has reached it after that.
        run(cycles.clamp(200, 4000));
        nginx.text("/given");
        let descriptors = process::descriptors(worker);
        let before = figures();
        run(cycles);
        let after = figures();
        let (given, rss) = (after.0 - before.0, after.1 - before.1);
        println!("{language}: {cycles} cycles, {given} bytes of malloc's more, {rss} in all");
        let number = cycles as i64;
        // What a JVM takes for its compilers comes and goes.
        let most = if language == "java" { MOST_RSS } else { MOST };
        assert!(given < most + number * MOST_EACH, "{language}: {given}");
        assert!(rss < MOST_RSS + number * MOST_RSS_EACH, "{language}: {rss}");
        // The connection of the last request may not be closed yet.
        eventually("no descriptor more", || {
            process::descriptors(worker) <= descriptors
        });
    }
}
