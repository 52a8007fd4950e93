//! A listing as pkg_add reads it, with the perl that it is written in.

use std::io::Write as _;
use std::process::{Command, Stdio};

use mirrorlog_core::layout::Layout;

use super::World;

/// What pkg_add does with each line of a listing: it takes every HREF that ends in `.tgz`, of that what
/// follows the last slash, and undoes escapes.
const READ: &str = r#"
    while (my $line = <STDIN>) {
        for my $entry ($line =~ m/\<A\s+HREF=\"(.*?\.tgz)\"\>/gio) {
            $entry =~ s|.*/||;
            $entry =~ s/%([0-9a-f][0-9a-f])/chr(hex($1))/gei;
            print "$entry\n";
        }
    }
"#;

fn read_by_perl(listing: &[u8]) -> Vec<String> {
    let mut perl = Command::new("perl")
        .args(["-we", READ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("perl is installed");
    let mut stdin = perl.stdin.take().unwrap();
    let listing = listing.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&listing));
    let output = perl.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// As many as an architecture has, with all that their names have: `+`, flavors, revisions, long ones.
fn names() -> Vec<String> {
    let stems = [
        "gtk+3",
        "libsigc++",
        "p5-Net-DNS",
        "py3-setuptools",
        "0ad",
        "vim",
        "texlive_texmf-full",
    ];
    let versions = ["3.24.41", "69.1.0p0v0", "2.0rc1", "20240312v0", "9.1.0p3"];
    let flavors = ["", "-no_x11", "-gtk3-lua", "-static", "-pgsql"];
    let mut names: Vec<String> = (0..12_000)
        .map(|i| {
            let [stem, version, flavor] =
                [&stems[..], &versions, &flavors].map(|of| of[i % of.len()]);
            format!("{stem}-n{i}-{version}{flavor}.tgz")
        })
        .collect();
    names.push(format!("{}-1.0.tgz", "x".repeat(240)));
    names.push("a~b@c,d=e-1.0%41.tgz".to_owned());
    names.sort();
    names
}

#[tokio::test]
async fn pkg_add_finds_every_package_of_a_listing() {
    let world = World::new();
    let names = names();
    let beside = [
        "SHA256",
        "SHA256.sig",
        "index.txt",
        "no-1.0.tgz.sig",
        "sub.tgz/x-1.0.tgz",
    ];
    let all = names.iter().map(String::as_str).chain(beside);
    let paths: Vec<String> = all
        .map(|name| format!("7.8/packages/amd64/{name}"))
        .collect();
    let files: Vec<_> = paths.iter().map(|path| (path.as_str(), "x")).collect();
    let root = world.files(&files);
    world.serve_as("bsd", "/pub/OpenBSD", &[(1, root)], Some(1), |served| {
        served.layout = Layout::OpenBsd;
    });
    for url in [
        "/pub/OpenBSD/7.8/packages/amd64/",
        "/@/bsd/1/7.8/packages/amd64/",
    ] {
        let answer = world.get(url).await;
        assert_eq!(answer.status, 200);
        let mut found = read_by_perl(&answer.body);
        found.sort();
        assert_eq!(found.len(), names.len(), "{url}");
        assert_eq!(found, names, "{url}");
    }
}
