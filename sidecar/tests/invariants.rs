//! Do the invariants that fuzzing looks after hold for what Geths and users really write, and for that with damage?

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "there it is a library")]
mod invariants;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::path::Path;

/// The values that fuzzing of `target` begins with.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| std::fs::read(file.path()).ok()).collect()
}

/// A seed, in which some bytes are others and from which some are cut.
fn damaged(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let damage = prop::collection::vec((any::<Index>(), any::<u8>()), 0..4);
    (select(seeds(target)), damage, any::<Index>(), 0usize..4).prop_map(|(mut bytes, damage, at, cut)| {
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let at = at.index(bytes.len());
        bytes.drain(at..bytes.len().min(at + cut));
        bytes
    })
}

#[test]
fn do_the_seeds_of_fuzzing_keep_all_invariants() {
    for (target, invariant) in
        [("enode", invariants::enode as fn(&[u8])), ("entry", invariants::entry), ("ipc", invariants::ipc)]
    {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target}");
        seeds.iter().for_each(|seed| invariant(seed));
    }
}

proptest! {
    #[test]
    fn does_a_damaged_enode_keep_them(bytes in damaged("enode")) {
        invariants::enode(&bytes);
    }

    #[test]
    fn does_a_damaged_entry_keep_them(bytes in damaged("entry")) {
        invariants::entry(&bytes);
    }

    #[test]
    fn does_a_damaged_stream_keep_them(bytes in damaged("ipc")) {
        invariants::ipc(&bytes);
    }
}
