//! The JVM's arguments: ours, and those of the user.

/// Arguments that no user may change: nginx has the signals.
const MANDATORY: [&str; 1] = ["-Xrs"];

/// Modest, since every worker has a JVM of its own. The user's arguments come later,
/// and override these.
const DEFAULTS: [&str; 12] = [
    "-Xmx64m",
    "-Xss512k",
    // No file in /tmp, nor a socket, which would be left behind; tools that
    // attach themselves would send SIGQUIT first, which ends nginx's worker.
    "-XX:-UsePerfData",
    "-XX:+DisableAttachMechanism",
    // The limit of open files is nginx's.
    "-XX:-MaxFDLimit",
    // nginx's workers have no environment and so no locale; before Java 18 that
    // would mean ASCII.
    "-Dfile.encoding=UTF-8",
    "-Dsun.jnu.encoding=UTF-8",
    // An exception has its message and its stack trace, however often it occurs.
    "-XX:-OmitStackTraceInFastThrow",
    // There is no screen.
    "-Djava.awt.headless=true",
    // `Drivers.java` takes out the drivers of closed runtimes.
    "--add-opens=java.sql/java.sql=ALL-UNNAMED",
    // It would warn that `java.lang.Shutdown` has a method of ours (`ExitGuard.java`).
    "-Xlog:jni+resolve=off",
    // Otherwise it would be the worker's working directory.
    "-Djava.class.path=/dev/null",
];

/// The collector, unless the user chooses one.
const COLLECTOR: &str = "-XX:+UseSerialGC";
/// Java 24 and later want a permission to load libraries, as sqlite-jdbc does.
const NATIVE_ACCESS: (u32, &str) = (24, "--enable-native-access=ALL-UNNAMED");

/// Whether an argument chooses a collector.
fn is_collector(argument: &str) -> bool {
    argument.starts_with("-XX:+Use") && argument.ends_with("GC")
}

/// All arguments for a JVM of a version.
pub fn all(version: u32, given: &[String]) -> Vec<String> {
    let mut all: Vec<String> = DEFAULTS.map(str::to_owned).into();
    if !given.iter().any(|argument| is_collector(argument)) {
        all.push(COLLECTOR.to_owned());
    }
    if version >= NATIVE_ACCESS.0 {
        all.push(NATIVE_ACCESS.1.to_owned());
    }
    all.extend(given.iter().cloned());
    all.extend(MANDATORY.map(str::to_owned));
    all
}

/// Checks the user's arguments.
///
/// # Errors
/// If one cannot be used here.
pub fn check(given: &[String]) -> Result<(), String> {
    for argument in given {
        let complaint = match argument.as_str() {
            "-cp" | "-classpath" | "--class-path" => "the classes of a runtime are in class_path",
            "-jar" => "there is no main class; put the jar into class_path",
            "-Xlog:help" | "-Xinternalversion" | "-Xshare:dump" => {
                "a JVM would end the process after it"
            }
            "-XX:-ReduceSignalUsage" => "the signals are nginx's",
            argument if argument.starts_with("-J") => "that is for programs of the JDK",
            argument if argument.starts_with("--") && !argument.contains('=') => {
                "write --option=value, as one argument"
            }
            argument if !argument.starts_with('-') => "an argument begins with \"-\"",
            _ => continue,
        };
        return Err(format!("jvm_args: \"{argument}\": {complaint}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn the_user_comes_behind_the_defaults_and_signals_last() {
        let all = all(17, &strings(&["-Xmx1g", "-Xss2m"]));
        let at = |text: &str| all.iter().position(|argument| argument == text).unwrap();
        assert!(at("-Xmx64m") < at("-Xmx1g"));
        assert!(at(COLLECTOR) < at("-Xmx1g"));
        assert_eq!(all.last().unwrap(), "-Xrs");
        assert!(!all.iter().any(|argument| argument == NATIVE_ACCESS.1));
        assert!(super::all(25, &[]).iter().any(|a| a == NATIVE_ACCESS.1));
    }

    #[test]
    fn only_one_collector() {
        let all = all(17, &strings(&["-XX:+UseG1GC"]));
        let collectors = all.iter().filter(|argument| is_collector(argument));
        assert_eq!(collectors.count(), 1);
    }

    #[test]
    fn what_is_for_the_program_java_is_refused() {
        for argument in [
            "-Xlog:help",
            "-cp",
            "-jar",
            "--add-opens",
            "/x.jar",
            "-XX:-ReduceSignalUsage",
        ] {
            let error = check(&strings(&["-Xmx1g", argument])).unwrap_err();
            assert!(error.contains(argument), "{error}");
        }
        let fine = strings(&[
            "-Xmx1g",
            "--add-opens=java.base/java.nio=ALL-UNNAMED",
            "-Da=b",
        ]);
        assert_eq!(check(&fine), Ok(()));
    }
}
