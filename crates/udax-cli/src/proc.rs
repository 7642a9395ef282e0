//! What the kernel tells of this process under /proc.

/// Whether this process may take leases on files of other users (CAP_LEASE).
pub(crate) fn has_cap_lease() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| lease_in(&status))
}

/// Whether a text of status tells of it.
pub(crate) fn lease_in(status: &str) -> bool {
    const CAP_LEASE: u32 = 28;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> CAP_LEASE & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_capability_is_found_in_the_effective_set_only() {
        assert!(lease_in("CapPrm:\t0\nCapEff:\t0000000010000000\n"));
        assert!(!lease_in("CapPrm:\t0000000010000000\nCapEff:\t00000000efffffff\n"));
        assert!(!lease_in(""));
    }
}
