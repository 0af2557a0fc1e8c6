#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    image_layers::fuzzing::documents(data);
});
