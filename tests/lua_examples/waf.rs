//! The firewall: what it finds and what it lets pass, in the pool and in the
//! event loop, with a full pool, with new rules, with bodies in files.

use std::fs;

use crate::example::{Example, Site};
use crate::raw::{browser, exchange};
use support::{eventually, root};

/// A request of a corpus.
struct Case {
    title: String,
    request: Vec<u8>,
}

/// Reads a file of requests; its first lines say how it is made.
fn corpus(name: &str) -> Vec<Case> {
    let path = root().join("examples/waf/corpus").join(name);
    let text = fs::read_to_string(path).unwrap();
    let parts: Vec<&str> = text.split("\n=== ").skip(1).collect();
    parts.iter().map(|part| case(part)).collect()
}

/// The firewall, with time for its answers on a busy machine.
fn firewall() -> Example {
    Example::new("waf", &[]).edit("waf_access.lua", "timeout = 1,", "timeout = 60,")
}

fn case(part: &str) -> Case {
    let (head, body) = part.split_once("\n\n").unwrap_or((part, ""));
    let mut lines = head.lines();
    let title = lines.next().unwrap().to_owned();
    let (method, target) = lines.next().unwrap().split_once(' ').expect("a target");
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').expect("a header"))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let body = body.trim_end().replace('\n', "\r\n");
    Case {
        title,
        request: browser(method, target, &headers, body.as_bytes()),
    }
}

/// The firewall's last line in the log.
fn last_report(site: &Site) -> String {
    let log = site.nginx.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" waf: ")).collect();
    lines.last().copied().unwrap_or_default().to_owned()
}

fn status_has(site: &Site, text: &str) -> bool {
    site.nginx.text("/waf/status").contains(text)
}

/// Every rule finds the attacks of its file and leaves what is harmless alone,
/// with the regular expressions of a VM and with those of site.nginx.
#[test]
fn rules_find_what_they_say() {
    let pool = "
        local rt = assert(nbffi.load { runtime = 'lua', module = 'waf', name = 'test' })
        ngx.print(table.concat(assert(rt:call('selftest')), '\\n'))";
    let in_loop = "ngx.print(table.concat(require('waf').selftest(), '\\n'))";
    let example = firewall().with(|builder| {
        builder
            .location("/test/pool", pool)
            .location("/test/loop", in_loop)
            .location(
                "/test/count",
                "ngx.print(table.concat({ require('waf').count() }, ' '))",
            )
    });
    let site = example.start();
    assert_eq!(site.nginx.text("/test/loop"), "");
    assert_eq!(site.nginx.text("/test/pool"), "");
    let counts = site.nginx.text("/test/count");
    let (rules, checks) = counts.split_once(' ').unwrap();
    assert!(rules.parse::<u32>().unwrap() >= 300, "only {rules} rules");
    let readme = fs::read_to_string(root().join("examples/waf/README.md")).unwrap();
    let said = format!("through {rules} regular expressions and {checks} checks");
    assert!(readme.contains(&said), "examples/waf/README.md: {said}");
}

#[test]
fn harmless_requests_pass() {
    let site = firewall().start();
    let cases = corpus("harmless.txt");
    assert!(cases.len() >= 60, "only {}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let answer = exchange(site.port, &case.request);
        if answer.status != 200 {
            let title = &case.title;
            wrong.push(format!("{title}: {} {}", answer.status, last_report(&site)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let looked = format!("requests: {}, of which in the event loop: 0", cases.len());
    assert!(
        status_has(&site, &looked),
        "{}",
        site.nginx.text("/waf/status")
    );
}

/// Each by a rule of the group that its title names.
#[test]
fn attacks_are_blocked() {
    let site = firewall().start();
    let cases = corpus("attacks.txt");
    assert!(cases.len() >= 90, "only {}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let answer = exchange(site.port, &case.request);
        let report = last_report(&site);
        let (group, _) = case.title.split_once(": ").expect("a group");
        if answer.status != 403 || !report.contains(&format!("({group}: ")) {
            wrong.push(format!("{}: {} {report}", case.title, answer.status));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn locations_have_their_own_ways() {
    let site = firewall().start();
    let attack = "?q=1+union+select+2";
    assert_eq!(site.get(&format!("/{attack}")).status, 403);
    assert_eq!(site.get(&format!("/loop/{attack}")).status, 403);
    assert!(last_report(&site).contains("blocked, score 5: 1001 (sql: UNION SELECT) in args"));
    assert_eq!(site.get("/loop/?q=red+shoes").text(), "welcome\n");

    assert_eq!(site.get(&format!("/trial/{attack}")).status, 200);
    assert!(last_report(&site).contains("passed, score 5: 1001"));

    assert_eq!(site.get(&format!("/docs/{attack}")).status, 200);
    assert_eq!(site.get("/docs/?q=<script>").status, 403);

    // What a client sent neither ends a line of the log nor controls a terminal.
    assert_eq!(
        site.get("/?q=<script>%0a2026/01/01+[note]%1b[31m").status,
        403
    );
    let log = site.nginx.log();
    assert!(!log.contains("\n2026/01/01 [note]") && !log.contains('\x1b'));
}

/// nginx puts bodies into files that are larger than its buffer. The pool reads
/// them, up to a limit.
#[test]
fn bodies_in_files_are_read() {
    let site = firewall().start();
    let post = |before: usize| {
        let text = [
            "x=",
            &"a+b+".repeat(before / 4),
            "<script>",
            &"c".repeat(300_000),
        ]
        .concat();
        let kind = "application/x-www-form-urlencoded".to_owned();
        let headers = [("Content-Type".to_owned(), kind)];
        exchange(site.port, &browser("POST", "/", &headers, text.as_bytes())).status
    };
    assert_eq!(post(0), 403);
    assert_eq!(post(130_000), 403);
    assert_eq!(post(140_000), 200);
    assert!(
        site.nginx
            .log()
            .contains("a client request body is buffered to a temporary file")
    );
}

/// The example, and a runtime beside the firewall's in the same pool, whose tasks
/// end when they are told to.
fn with_holder(example: Example) -> Example {
    let module = "return { hold = function()
        while not ngx.shared.waf:get('released') do
            ngx.sleep(0.002)
        end
    end }";
    fs::write(example.folder.join("holder.lua"), module).unwrap();
    let release = "ngx.shared.waf:set('released', true)";
    example.with(|builder| {
        builder
            .location("/hold", HOLD)
            .location("/release", release)
    })
}

const HOLD: &str = "
    local holder = assert(nbffi.load { runtime = 'lua', module = 'holder', pool = 'waf' })
    local stats = nbffi.stats().pools.waf
    for _ = 1, tonumber(ngx.var.arg_tasks) or stats.threads + stats.max_queue do
        local ok, err = holder:cast('hold')
        if not ok then
            return ngx.print(err)
        end
    end
    ngx.print('held')";

#[test]
fn with_a_full_pool_the_event_loop_does_it() {
    let site = with_holder(firewall()).start();
    assert_eq!(site.get("/").status, 200);
    assert!(status_has(&site, "in the event loop: 0"));

    // Until nothing more fits.
    while site.nginx.text("/hold") == "held" {}
    assert_eq!(site.get("/?q=1+union+select+2").status, 403);
    assert_eq!(site.get("/?q=red+shoes").status, 200);
    assert!(status_has(&site, "in the event loop: 2"));

    site.nginx.text("/release");
    eventually("the pool is free", || {
        site.nginx.figure("pools.waf.in_flight") == 0.0
    });
    assert_eq!(site.get("/?q=1+union+select+2").status, 403);
    assert!(status_has(&site, "in the event loop: 2"));
}

/// A firewall that gives no answer in time.
#[test]
fn a_failure_passes_or_does_not_as_was_said() {
    let closed = "location /closed/ {
        access_by_lua_block { require('waf_access').check { fail = 503 } }
        content_by_lua_block { ngx.say('welcome') }
    }";
    let example = with_holder(Example::new("waf", &[])).with(|builder| builder.server(closed));
    let site = example.start();
    let threads = site.nginx.figure("pools.waf.threads");
    assert_eq!(site.nginx.text(&format!("/hold?tasks={threads}")), "held");
    assert_eq!(site.get("/").status, 200);
    assert_eq!(site.get("/closed/").status, 503);
    assert_eq!(site.nginx.log().matches(" waf: timeout").count(), 2);
    site.nginx.text("/release");
}

#[test]
fn rules_can_be_replaced() {
    let fresh = "
        local rt = assert(nbffi.load { runtime = 'lua', module = 'waf', name = 'fresh' })
        ngx.print((assert(rt:call('count'))))";
    let example = firewall().with(|builder| builder.workers(2).location("/test/fresh", fresh));
    let file = example.folder.join("rules/sql.rules");
    let site = example.start();
    let both = |text: &str| {
        eventually(text, || site.nginx.log().matches(text).count() == 2);
    };
    both("waf: ready");
    let all = |target: &str, status: u16| (0..20).all(|_| site.get(target).status == status);
    assert!(all("/?q=quagga", 200) && all("/loop/?q=quagga", 200));

    let rules = fs::read_to_string(&file).unwrap();
    let more = "\n9001 5 a word of ours\n= \\bquagga\\b\n? a quagga\n";
    fs::write(&file, rules.clone() + more).unwrap();
    let count = site.nginx.text("/waf/reload");
    both("waf: new rules");
    assert!(all("/?q=quagga", 403) && all("/loop/?q=quagga", 403));

    // With a rule that is none, all stays as it is, in new VMs, too.
    fs::write(&file, rules + "\n9002 5 a mistake\n= (\n? x\n").unwrap();
    let answer = site.get("/waf/reload");
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("the rule above, 9002"));
    assert!(site.nginx.log().contains("waf: the rules stay as they are"));
    assert!(all("/?q=quagga", 403) && all("/loop/?q=quagga", 403));
    assert_eq!(
        format!("rules: {}\n", site.nginx.text("/test/fresh")),
        count
    );
}
