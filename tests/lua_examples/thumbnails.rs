//! The proxy: thumbnails of pictures, and files that do not wait for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::document::run;
use crate::example::{Example, Site};
use crate::raw::Answer;
use support::{eventually, root};

/// A picture of the size of that of the talk.
const MOON: (u32, u32) = (2835, 1984);

fn draw(path: &Path, (width, height): (u32, u32)) {
    let program = root().join("target/release/sample_picture");
    assert!(
        program.exists(),
        "run `make examples` first (or `make test`)"
    );
    let mut draw = Command::new(program);
    draw.args([width.to_string(), height.to_string()]).arg(path);
    run("sample_picture", &mut draw);
}

/// The proxy, with a picture.
fn start() -> Site {
    // Names as nginx would not let them through.
    let make = "
        local rt = assert(nbffi.load { runtime = 'lua', module = 'thumb', name = 'test' })
        local jpeg, status, why = rt:call('make', ngx.unescape_uri(ngx.var.arg_name), 300, 200)
        ngx.print(jpeg and 'a picture' or status)";
    // So that all have an answer on a busy machine.
    let example = Example::new("thumbnail_proxy", &[]).edit(
        "thumb_proxy.lua",
        "timeout = 30,",
        "timeout = 80,",
    );
    let site = example
        .with(|builder| builder.location("/make", make))
        .start();
    fs::create_dir(html(&site, "")).unwrap();
    for name in ["index.html", "style.css"] {
        fs::copy(site.folder.join("html").join(name), html(&site, name)).unwrap();
    }
    draw(&html(&site, "moon.jpg"), MOON);
    site
}

/// Where a file is that the proxy serves.
fn html(site: &Site, name: &str) -> PathBuf {
    site.nginx.dir().join("prefix/html").join(name)
}

fn status(site: &Site) -> String {
    site.nginx.text("/status")
}

/// The size that the header of a JPEG file tells, and that it has an end.
fn jpeg_size(bytes: &[u8]) -> (u16, u16) {
    assert!(bytes.starts_with(&[0xff, 0xd8]) && bytes.ends_with(&[0xff, 0xd9]));
    let mut at = 2;
    loop {
        assert_eq!(bytes[at], 0xff);
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        match bytes[at + 1] {
            0xc0..=0xc2 => return (word(at + 7), word(at + 5)),
            _ => at += 2 + usize::from(word(at + 2)),
        }
    }
}

#[test]
fn thumbnails_have_their_size() {
    let site = start();
    for (size, expected) in [("300x200", (286, 200)), ("160x120", (160, 112))] {
        for place in ["", "/loop"] {
            let answer = site.get(&format!("{place}/thumb/{size}/moon.jpg"));
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.value("content-type"), Some("image/jpeg"));
            assert_eq!(jpeg_size(&answer.body), expected);
        }
    }
    // Small ones are not enlarged, and other kinds become JPEG.
    draw(&html(&site, "small.jpg"), (100, 50));
    let small = site.get("/thumb/640x480/small.jpg");
    assert_eq!(jpeg_size(&small.body), (100, 50));
    fs::write(html(&site, "dot.png"), DOT).unwrap();
    let dot = site.get("/thumb/160x120/dot.png");
    assert_eq!(jpeg_size(&dot.body), (1, 1));
}

/// A PNG of one pixel.
const DOT: &[u8] = b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\
    \x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90\x77\x53\xde\x00\x00\x00\
    \x0c\x49\x44\x41\x54\x78\x9c\x63\xf8\xdf\xc0\x00\x00\x04\x01\x01\x80\xc5\
    \x2a\x18\x5d\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\x82";

#[test]
fn pictures_stay_decoded_and_are_decoded_anew_when_they_change() {
    let site = start();
    let note = |path: &str| {
        let answer = site.get(path);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.value("x-picture").unwrap().to_owned()
    };
    // The same picture is the same key: the same thread, since it is free.
    assert_eq!(note("/thumb/300x200/moon.jpg"), "decoded");
    for size in ["160x120", "640x480", "300x200", "160x120", "640x480"] {
        assert_eq!(note(&format!("/thumb/{size}/moon.jpg")), "kept");
    }
    draw(&html(&site, "moon.jpg"), (900, 300));
    assert_eq!(note("/thumb/300x200/moon.jpg"), "decoded");
    let answer = site.get("/thumb/300x200/moon.jpg");
    assert_eq!(jpeg_size(&answer.body), (300, 100));

    // What is kept has its limits: 20 megapixels are four of these.
    let first = html(&site, "big0.jpg");
    draw(&first, (2500, 2000));
    let threads = site.nginx.figure("pools.pictures.threads") as usize;
    let all = 0..4 * threads + 4;
    for number in all.clone() {
        if number > 0 {
            fs::copy(&first, html(&site, &format!("big{number}.jpg"))).unwrap();
        }
        assert_eq!(note(&format!("/thumb/160x120/big{number}.jpg")), "decoded");
    }
    // From the newest to the oldest, so that looking does not replace them.
    let again = all
        .clone()
        .rev()
        .filter(|number| note(&format!("/thumb/300x200/big{number}.jpg")) == "kept");
    let again = again.count();
    assert!(
        (1..=4 * threads).contains(&again),
        "{again} of {all:?} with {threads} threads"
    );
}

#[test]
fn what_is_no_picture_is_refused() {
    let site = start();
    fs::write(html(&site, "text.jpg"), b"this is no picture").unwrap();
    fs::write(
        html(&site, "broken.jpg"),
        b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08\0\x10\0\x10\x03",
    )
    .unwrap();
    fs::write(html(&site, "cut.jpg"), b"\xff\xd8\xff").unwrap();
    let mut huge = DOT.to_vec();
    huge[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    fs::write(html(&site, "huge.png"), &huge).unwrap();
    fs::write(html(&site, "empty.jpg"), b"").unwrap();
    fs::copy(
        html(&site, "moon.jpg"),
        site.nginx.dir().join("prefix/secret.jpg"),
    )
    .unwrap();
    fs::copy(html(&site, "moon.jpg"), html(&site, ".hidden.jpg")).unwrap();
    fs::create_dir(html(&site, "sub")).unwrap();
    for (path, status) in [
        ("/thumb/300x200/none.jpg", 404),
        ("/thumb/300x200/text.jpg", 415),
        ("/thumb/300x200/broken.jpg", 415),
        ("/thumb/300x200/cut.jpg", 415),
        ("/thumb/300x200/huge.png", 413),
        ("/thumb/300x200/empty.jpg", 404),
        ("/thumb/300x200/..%2fsecret.jpg", 404),
        (
            "/thumb/300x200/%2e%2e/%2e%2e/thumb/300x200/a%2f..%2f..%2fsecret.jpg",
            404,
        ),
        ("/thumb/300x200/.hidden.jpg", 404),
        ("/thumb/301x200/moon.jpg", 404),
        ("/thumb/moon.jpg", 404),
    ] {
        let answer = site.get(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let folder = site.nginx.dir().display().to_string();
        assert!(
            !answer.text().contains(&folder),
            "{path}: {}",
            answer.text()
        );
    }
    assert_eq!(site.get("/thumb/300x200/moon.jpg").status, 200);

    assert_eq!(site.nginx.text("/make?name=moon.jpg"), "a picture");
    for name in [
        "../secret.jpg",
        "sub/../../secret.jpg",
        "/etc/hostname",
        "x%00.jpg",
        "",
    ] {
        assert_eq!(
            site.nginx.text(&format!("/make?name={name}")),
            "404",
            "{name}"
        );
    }
}

/// The point of it all. As long as threads decode, the worker answers: files of
/// which it has more served than it could between two thumbnails.
#[test]
fn files_do_not_wait_for_thumbnails() {
    let site = start();
    for number in 0..4 {
        draw(&html(&site, &format!("big{number}.jpg")), MOON);
    }
    std::thread::scope(|scope| {
        let pictures: Vec<_> = (0..4)
            .map(|number| {
                let site = &site;
                scope.spawn(move || site.get(&format!("/thumb/640x480/big{number}.jpg")))
            })
            .collect();
        // Files that were served from beginning to end while a thumbnail was
        // being made, as the worker itself said before and after.
        let working = || !status(&site).contains("running 0");
        eventually("a thread decodes", working);
        let mut served = 0;
        while working() {
            for (path, text) in [("/", "<title>"), ("/style.css", "max-width")] {
                let answer = site.get(path);
                assert_eq!(answer.status, 200);
                assert!(answer.text().contains(text));
            }
            served += 2;
            assert!(served < 1_000_000, "thumbnails that never end");
        }
        for picture in pictures {
            let answer = picture.join().unwrap();
            assert_eq!(answer.status, 200);
            assert_eq!(jpeg_size(&answer.body), (640, 448));
        }
        assert!(served >= 4, "only {served} files were served meanwhile");
    });
}

#[test]
fn too_many_are_told_so_at_once() {
    let site = start();
    std::thread::scope(|scope| {
        let site = &site;
        let all: Vec<_> = (0..60)
            .map(|number| {
                let size = ["160x120", "300x200", "640x480"][number % 3];
                scope.spawn(move || site.get(&format!("/thumb/{size}/moon.jpg")))
            })
            .collect();
        let answers: Vec<Answer> = all.into_iter().map(|one| one.join().unwrap()).collect();
        let count = |status: u16| answers.iter().filter(|a| a.status == status).count();
        let refused = answers.iter().filter(|a| a.status == 503);
        for answer in refused {
            assert_eq!(answer.value("retry-after"), Some("1"));
        }
        assert_eq!(count(200) + count(503), 60);
        // The threads, and the queue of 32.
        assert!(count(200) >= 33, "{}", count(200));
        assert!(count(503) > 0, "{}", status(site));
        assert!(status(site).contains(&format!("refused {}", count(503))));
    });
}
