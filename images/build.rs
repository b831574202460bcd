//! Generates the protobuf messages: pure Rust, so building needs no protoc.

fn main() {
    protobuf_codegen::Codegen::new()
        .pure()
        .cargo_out_dir("proto")
        .include("proto")
        .input("proto/signals.proto")
        .input("proto/criu_core.proto")
        .run_from_script();
}
