#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| geth_peering_fuzz::entry(data));
