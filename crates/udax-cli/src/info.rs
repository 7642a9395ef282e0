//! `udax info`: what this kernel and this user can do.

use crate::output::{Verdict, print, print_json, table};
use crate::proc;
use serde::Serialize;
use udax_linux::{Capabilities, Engine, Errno, HandoverWay, UserfaultfdAccess, probe};

/// What this kernel and this user can do.
#[derive(clap::Args)]
#[command(long_about = "\
What this kernel and this user can do: whether page faults can be served in user space and how, what proves that nobody else \
writes a file, and the limits that matter. Where something is in the way, it says what to do about it.

Everything is tried out, not read from a version number; nothing on the machine is changed.")]
#[command(after_help = "\
Examples:
  udax info                              a table
  udax info --json | jq .usable          for a script
  udax info > /dev/null && udax run ...  run with udax only where it works

Exit code 0 if udax can serve faults here, 125 if not.")]
pub(crate) struct InfoArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was found, as it is printed.
#[derive(Serialize)]
struct Info {
    version: &'static str,
    usable: bool,
    /// What is in the way, of any engine or of the best one, and what to do about it.
    advice: Option<String>,
    kernel_release: String,
    /// As `UDAX_ENGINE` takes it.
    engine: &'static str,
    /// How faults come to user space.
    how: &'static str,
    facts: Vec<Fact>,
}

/// One thing that was found out.
#[derive(Serialize)]
struct Fact {
    name: &'static str,
    value: String,
    meaning: &'static str,
}

/// Prints what is found.
///
/// # Errors
/// If standard output cannot be written.
pub(crate) fn info(args: &InfoArgs) -> anyhow::Result<Verdict> {
    let found = gather(&probe());
    if args.json {
        print_json(&found)?;
    } else {
        print(&text(&found))?;
    }
    Ok(if found.usable { Verdict::Fine } else { Verdict::CannotWork })
}

fn gather(found: &Capabilities) -> Info {
    let (engine, advice) = match found.engine() {
        Ok((engine, why_not_better)) => (Some(engine), why_not_better),
        Err(why) => (None, Some(why)),
    };
    let mut facts = Vec::new();
    facts.extend(engine_facts(found));
    facts.extend(proof_facts(found));
    facts.extend(limit_facts(found));
    Info {
        version: env!("CARGO_PKG_VERSION"),
        usable: engine.is_some(),
        engine: engine.map_or("none", Engine::name),
        how: match (engine, &found.userfaultfd) {
            (None, _) => "not at all",
            (Some(Engine::Userfaultfd), UserfaultfdAccess::Device) => {
                "through userfaultfd, by /dev/userfaultfd"
            }
            (Some(Engine::Userfaultfd), _) => "through userfaultfd, by its system call",
            (Some(Engine::UserfaultfdUser), _) => {
                "through userfaultfd, by its system call, for faults in user mode; memory is prepared for system calls"
            }
            (Some(Engine::Signals), _) => {
                "by a handler of SIGSEGV; memory is prepared for system calls"
            }
        },
        advice,
        kernel_release: found.kernel_release.clone(),
        facts,
    }
}

fn engine_facts(found: &Capabilities) -> Vec<Fact> {
    let mut facts = Vec::new();
    for &(name, there) in &found.features {
        facts.push(Fact { name, value: yes(there), meaning: meaning_of_feature(name) });
    }
    facts.push(Fact {
        name: "private descriptor table",
        value: outcome(found.private_table),
        meaning: "keeps udax's own descriptors out of the program's sight",
    });
    facts.push(Fact {
        name: "descriptors",
        value: match found.handover {
            Ok(HandoverWay::Pidfd) => "by pidfd_getfd".to_owned(),
            Ok(HandoverWay::Socket) => "by a socket".to_owned(),
            Err(errno) => format!("no: {errno}"),
        },
        meaning: "how a descriptor of the program comes to udax's threads",
    });
    facts.push(Fact {
        name: "PAGEMAP_SCAN",
        value: yes(found.pagemap_scan),
        meaning: "finds private copies and lost registrations (Linux 6.7)",
    });
    facts.push(Fact {
        name: "2 MiB zero page",
        value: yes(found.huge_zero_page),
        meaning: "holes are read at full speed; without it, 4 KiB zero pages serve",
    });
    facts.push(Fact {
        name: "transparent_hugepage",
        value: or_unknown(Some(&found.thp_enabled).filter(|text| !text.is_empty())),
        meaning: "with [never] there is no 2 MiB zero page",
    });
    facts
}

fn meaning_of_feature(name: &str) -> &'static str {
    match name {
        "UFFD_FEATURE_EVENT_REMAP" => "needed: zero windows are moved into place",
        "UFFD_FEATURE_PAGEFAULT_FLAG_WP" => "needed: first stores to a hole are seen",
        "UFFD_FEATURE_WP_UNPOPULATED" => "pages that were never touched can be guarded",
        "UFFD_FEATURE_WP_ASYNC" => "stores can be tracked without a fault in user space",
        _ => "",
    }
}

fn proof_facts(found: &Capabilities) -> Vec<Fact> {
    let leases = if proc::has_cap_lease() { "any file (CAP_LEASE)" } else { "this user's files" };
    vec![
        Fact {
            name: "leases",
            value: leases.to_owned(),
            meaning: "a lease proves that nobody else writes; without one a mapping stays plain",
        },
        Fact {
            name: "fs.lease-break-time",
            value: or_unknown(found.lease_break_seconds.map(|seconds| format!("{seconds} s"))),
            meaning: "how long another process that opens the file would wait for us at most",
        },
    ]
}

fn limit_facts(found: &Capabilities) -> Vec<Fact> {
    vec![
        Fact {
            name: "vm.max_map_count",
            value: or_unknown(found.max_map_count),
            meaning: "mappings a process may have; near it, files go plain",
        },
        Fact {
            name: "vm.overcommit_memory",
            value: or_unknown(found.overcommit_memory),
            meaning: "with 2, untouched holes count as memory and may be refused: then plain",
        },
        Fact {
            name: "vm.unprivileged_userfaultfd",
            value: or_unknown(found.unprivileged_userfaultfd),
            meaning: "with 1, every user may serve faults of the kernel's own accesses too",
        },
    ]
}

fn yes(there: bool) -> String {
    if there { "yes" } else { "no" }.to_owned()
}

fn outcome(result: Result<(), Errno>) -> String {
    result.map_or_else(|errno| format!("no: {errno}"), |()| yes(true))
}

fn or_unknown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

fn text(found: &Info) -> String {
    let mut rows = table(["what", "here", "what it is for"], &[]);
    for fact in &found.facts {
        rows.add_row([fact.name, &fact.value, fact.meaning]);
    }
    let verdict = match (found.usable, &found.advice) {
        (true, None) => format!("Works here: faults are served {}.", found.how),
        (true, Some(why)) => {
            format!("Works here: faults are served {}.\nNot better, since {why}.", found.how)
        }
        (false, why) => format!("Cannot work here: {}.", why.as_deref().unwrap_or_default()),
    };
    format!("udax {} on Linux {}\n{verdict}\n\n{rows}\n", found.version, found.kernel_release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_userfaultfd_is_told_with_advice_and_signals_are_used() {
        let mut found = probe();
        let advice = "set the sysctl".to_owned();
        found.userfaultfd = UserfaultfdAccess::Refused { errno: Errno::PERM, advice };
        let found = gather(&found);
        assert!(found.usable);
        assert_eq!(found.engine, "signals");
        let text = text(&found);
        assert!(text.contains("SIGSEGV") && text.contains("set the sysctl"), "{text}");
    }

    #[test]
    fn what_nothing_works_without_is_told_as_no_engine() {
        let mut found = probe();
        found.handover = Err(Errno::PERM);
        let found = gather(&found);
        assert!(!found.usable);
        assert_eq!(found.engine, "none");
        assert!(text(&found).contains("Cannot work here: pidfd_getfd is refused, and a socket"));
    }
}
