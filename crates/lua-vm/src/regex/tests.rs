//! Patterns, replacements, limits.

use super::scratch::KEPT_BYTES;
use super::*;

fn regex(pattern: &str, options: u32) -> Regex {
    Regex::new(pattern.as_bytes(), options).unwrap()
}

/// The match and its groups, at `start` or after it.
fn find_at(regex: &Regex, subject: &[u8], start: usize) -> Result<Vec<(i32, i32)>, i32> {
    let mut offsets = vec![7; 2 * (regex.info().captures as usize + 1)];
    // SAFETY: nothing is said of the subject.
    unsafe { regex.find(subject, start, false, &mut offsets) }?;
    Ok(offsets.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

fn find(pattern: &str, options: u32, subject: &str) -> Result<Vec<(i32, i32)>, i32> {
    find_at(&regex(pattern, options), subject.as_bytes(), 0)
}

fn gsub(pattern: &str, options: u32, subject: &[u8], template: &str) -> (Matched, String) {
    let template = Template::new(template.as_bytes()).unwrap();
    let mut text = String::new();
    let count = regex(pattern, options).sub(&template, subject, true, |bytes| {
        text = String::from_utf8_lossy(bytes).into_owned();
    });
    (count, text)
}

#[test]
fn every_option_does_what_its_letter_says() {
    const WHOLE: &[(i32, i32)] = &[(0, 1)];
    for (bits, pattern, subject, without, with) in [
        (option::CASELESS, "a", "A", None, Some(WHOLE)),
        (option::MULTILINE, "^b", "a\nb", None, Some(&[(2, 3)][..])),
        (option::DOTALL, ".", "\n", None, Some(WHOLE)),
        (option::EXTENDED, " a # b", "a", None, Some(WHOLE)),
        (option::ANCHORED, "b", "ab", Some(&[(1, 2)][..]), None),
        (option::UTF, "^.$", "é", None, Some(&[(0, 2)][..])),
        (option::JAVASCRIPT, "[]|a", "a", None, Some(WHOLE)),
        (option::JIT, "a", "a", Some(WHOLE), Some(WHOLE)),
        (option::DFA, "a|ab", "ab", Some(WHOLE), Some(&[(0, 2)][..])),
    ] {
        for (bits, expected) in [(0, without), (bits, with)] {
            let found = Regex::new(pattern.as_bytes(), bits)
                .ok()
                .and_then(|regex| find_at(&regex, subject.as_bytes(), 0).ok());
            assert_eq!(found.as_deref(), expected, "{pattern} {bits}");
        }
    }
    assert!(Regex::new(b"(?<n>a)(?<n>b)", 0).is_err());
    assert_eq!(
        regex("(?<n>a)(?<n>b)", option::DUPNAMES).info().name_count,
        2
    );
}

#[test]
fn groups_that_took_no_part_are_unset() {
    for options in [0, option::JIT] {
        assert_eq!(
            find("(a)|(b)|(c)", options, "xb"),
            Ok(vec![(1, 2), (-1, -1), (1, 2), (-1, -1)])
        );
    }
    assert_eq!(find("(a)(b)", option::DFA, "ab"), Ok(vec![(0, 2)]));
    // More groups than a thread begins with.
    let many = "(a)?".repeat(100);
    let found = find(&many, option::JIT, "aaa").unwrap();
    assert_eq!(found.len(), 101);
    assert_eq!(found[3..5], [(2, 3), (-1, -1)]);
}

#[test]
fn more_offsets_than_there_are_groups_are_unset() {
    let mut offsets = [7; 1000];
    // SAFETY: nothing is said of the subject.
    let found = unsafe { regex("b", 0).find(b"ab", 0, false, &mut offsets) };
    assert_eq!((found, &offsets[..2]), (Ok(1), &[1, 2][..]));
    assert_eq!(offsets[900..], [-1; 100]);
}

#[test]
fn nothing_lies_before_an_empty_subject() {
    for options in [0, option::JIT, option::DFA, option::JIT | option::UTF] {
        let behind = regex("(?<!b[[:alpha:]])", options);
        assert_eq!(find_at(&behind, b"", 0), Ok(vec![(0, 0)]));
        assert_eq!(find_at(&regex("(?<=a)", options), b"", 0), Err(NO_MATCH));
    }
}

#[test]
fn offsets_beyond_the_end_are_refused() {
    let any = regex("a*", option::JIT);
    assert_eq!(find_at(&any, b"ab", 2), Ok(vec![(2, 2)]));
    assert_eq!(find_at(&any, b"ab", 3), Err(BAD_OFFSET));
    assert_eq!(find_at(&any, b"ab", usize::MAX), Err(BAD_OFFSET));
}

#[test]
fn an_error_says_what_and_where() {
    let error = Regex::new(b"a[b", 0).unwrap_err();
    assert_eq!(error.message, "missing terminating ] for character class");
    assert_eq!(error.offset, 3);
    assert_eq!(Regex::new(b"a**b", 0).unwrap_err().offset, 2);
    assert!(Regex::new(b"\xff", option::UTF).is_err());
}

#[test]
fn replacements_have_references() {
    let both = |template| gsub("(a)(x)?", option::JIT, b"bab", template);
    assert_eq!(both("<$0>"), (Ok(1), "b<a>b".to_owned()));
    assert_eq!(both("$1$1"), (Ok(1), "baab".to_owned()));
    assert_eq!(both("${1}0$2$3$99999999999"), (Ok(1), "ba0b".to_owned()));
    assert_eq!(both("$$1"), (Ok(1), "b$1b".to_owned()));
    assert_eq!(both(""), (Ok(1), "bb".to_owned()));
    assert_eq!(gsub("x", 0, b"bab", "y"), (Ok(0), String::new()));
    for bad in ["$", "a$", "${", "${}", "$-", "${1", "${1x}", "$x", "${x}"] {
        assert!(Template::new(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn empty_matches_go_on_with_the_next_character() {
    assert_eq!(gsub("x*", 0, b"ab", "-"), (Ok(3), "-a-b-".to_owned()));
    assert_eq!(
        gsub("", option::UTF, "é!".as_bytes(), "-"),
        (Ok(3), "-é-!-".to_owned())
    );
    assert_eq!(
        gsub("(*UTF)", 0, "é!".as_bytes(), "-"),
        (Ok(3), "-é-!-".to_owned())
    );
    assert_eq!(gsub("b?", 0, b"abc", "-"), (Ok(4), "-a--c-".to_owned()));
}

#[test]
fn subjects_are_checked_unless_they_need_not_be() {
    let invalid = b"a\xffb";
    for jit in [0, option::JIT] {
        let found = find_at(&regex("b", option::UTF | jit), invalid, 0);
        assert!(found.is_err_and(|code| code < NO_MATCH), "{jit}");
        let tolerant = option::UTF | option::INVALID_UTF | jit;
        assert_eq!(find_at(&regex("b", tolerant), invalid, 0), Ok(vec![(2, 3)]));
        assert_eq!(find_at(&regex("a.b", tolerant), invalid, 0), Err(NO_MATCH));
        assert_eq!(gsub("[ab]", tolerant, invalid, "x").0, Ok(2));
    }
    // The DFA algorithm checks in any case.
    let tolerant = option::UTF | option::INVALID_UTF | option::DFA;
    assert!(find_at(&regex("b", tolerant), invalid, 0).is_err());
    // What stops inside a character is checked again.
    assert!(gsub(r"\C", option::UTF, "é".as_bytes(), "x").0.is_err());
}

#[test]
fn endless_backtracking_ends() {
    let subject = "a".repeat(60) + "!";
    for options in [0, option::JIT] {
        let code = find("(a+)+$", options, &subject).unwrap_err();
        assert_eq!(code, sys::PCRE2_ERROR_MATCHLIMIT);
    }
}

#[test]
fn memory_is_limited_and_given_back() {
    let subject = "ab".repeat(500_000);
    let code = find("(a|b)*", 0, &subject).unwrap_err();
    assert_eq!(code, sys::PCRE2_ERROR_HEAPLIMIT);
    let code = find("(a|b)*", option::JIT, &subject).unwrap_err();
    assert_eq!(code, sys::PCRE2_ERROR_JIT_STACKLIMIT);

    // Deep, but not too deep: the offsets outlive the memory.
    let found = find("(a|b)*", 0, &subject[..100_000]).unwrap();
    assert_eq!(found, [(0, 100_000), (99_999, 100_000)]);
    assert!(scratch::kept_bytes() <= KEPT_BYTES);

    assert!(set_jit_stack(64 << 20));
    let found = find("(a|b)*", option::JIT, &subject).unwrap();
    assert_eq!(found[0], (0, 1_000_000));
}

#[test]
fn a_large_result_does_not_stay() {
    let (count, text) = gsub("a", option::JIT, b"aaa", &"x".repeat(KEPT_BYTES));
    assert_eq!((count, text.len()), (Ok(3), 3 * KEPT_BYTES));
    assert_eq!(find("a", 0, "a"), Ok(vec![(0, 1)]));
    assert!(scratch::kept_bytes() <= KEPT_BYTES);
}

#[test]
fn threads_match_with_the_same_pattern() {
    let words = regex(r"(\w+) (\w+)", option::JIT);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let words = &words;
            scope.spawn(move || {
                let subject = format!("{} {}", "a".repeat(thread + 1), "b".repeat(9));
                let first = thread as i32 + 1;
                for _ in 0..2_000 {
                    let found = find_at(words, subject.as_bytes(), 0).unwrap();
                    assert_eq!(found[1..], [(0, first), (first + 1, first + 10)]);
                }
            });
        }
    });
}
