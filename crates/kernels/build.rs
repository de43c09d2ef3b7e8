//! Compiles the kernels with nvcc, for the architectures that are asked for.
//!
//! Without nvcc the crate is built all the same, with nothing in place of the kernels: it says so when
//! a GPU is opened.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

/// The files of `kernels/`, each with the first compute capability that has what it needs: the copy engine
/// of Hopper for `decode` and `decode_blocks`, its clusters of blocks for `sample`.
const FILES: [(&str, u32); 6] = [
    ("decode", 90),
    ("decode_blocks", 90),
    ("flash", 75),
    ("read", 75),
    ("rows", 75),
    ("sample", 90),
];

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where"));
    let nvcc = nvcc();
    let capabilities = capabilities();
    thread::scope(|scope| {
        for (file, first) in FILES {
            let (nvcc, capabilities, out) = (nvcc.as_deref(), &capabilities, &out);
            scope.spawn(move || {
                let to = out.join(format!("{file}.fatbin"));
                match nvcc {
                    Some(nvcc) => compile(nvcc, &from(first, capabilities), file, &to),
                    None => fs::write(&to, []).expect("the build's folder can be written"),
                }
            });
        }
    });
}

/// Those of `capabilities` from `first` on, or `first` where there is none: cards before it are then refused
/// by name.
fn from(first: u32, capabilities: &[u32]) -> Vec<u32> {
    let from: Vec<u32> = capabilities.iter().copied().filter(|&it| it >= first).collect();
    if from.is_empty() { vec![first] } else { from }
}

fn compile(nvcc: &Path, capabilities: &[u32], file: &str, to: &Path) {
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-O3", "-std=c++17", "-diag-suppress", "177"]);
    for capability in capabilities {
        command.arg(format!("-gencode=arch=compute_{capability},code=sm_{capability}"));
    }
    // Cards that are newer than all of them compile this at first use.
    if let Some(newest) = capabilities.last() {
        command.arg(format!("-gencode=arch=compute_{newest},code=compute_{newest}"));
    }
    command.arg("-o").arg(to).arg(format!("kernels/{file}.cu"));
    let output = command.output().expect("nvcc can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nvcc does not compile {file}.cu:\n{said}");
}

/// The compute capabilities to compile for, as in `75,90`; Hopper's where none are asked for.
fn capabilities() -> Vec<u32> {
    let asked = env::var("CUDA_COMPUTE_CAP").unwrap_or_default();
    let mut asked: Vec<u32> = asked
        .split([',', ' ', ';'])
        .filter(|part| !part.is_empty())
        .map(|part| {
            let number = part.replace('.', "").parse();
            number.unwrap_or_else(|_| panic!("CUDA_COMPUTE_CAP has {part}: 75,90 is expected"))
        })
        .collect();
    asked.sort_unstable();
    asked.dedup();
    if asked.is_empty() {
        asked.push(90);
    }
    asked
}

fn nvcc() -> Option<PathBuf> {
    let is_there = |path: &PathBuf| path.is_file();
    let named = env::var_os("NVCC").map(PathBuf::from);
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let in_homes = homes.map(|home| Path::new(&home).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<PathBuf> = env::split_paths(&path).map(|folder| folder.join("nvcc")).collect();
    named.into_iter().chain(in_homes).chain(in_path).find(is_there)
}
