// Runs a REPL in Pyodide, CPython compiled to WebAssembly, under Deno: stdin and stdout are its line to the host.
//
//     deno run (no rights but to read the two paths) wasm_host.mjs FOLDER INTERRUPTS SCRATCH FILES
//
// FOLDER holds Pyodide; INTERRUPTS is a file that grows by a byte when the block that runs is to be
// interrupted; SCRATCH and FILES bound the bytes and the number of files that code may make. The first
// bytes on stdin are a little-endian u32 and, as long as that says, the source of `guest/boot.py`.
//
// What holds code in is that this process has no rights: Python can reach JavaScript (ctypes calls any
// function of the module), so all of JavaScript here is the code's. That the ways there are removed, and
// the global names with them, is a second lock.

const [folder, interrupts, scratch, files] = Deno.args;
const { stdin, stdout, stderr, exit, permissions } = Deno;
const interrupted = Deno.openSync(interrupts);
const now = performance.now.bind(performance);
const process = Deno;
const host = process.ppid;

function take(size) {
  const data = new Uint8Array(size);
  for (let have = 0; have < size; ) {
    const count = stdin.readSync(data.subarray(have));
    if (count === null) exit(0);
    have += count;
  }
  return data;
}

const boot = new TextDecoder().decode(take(new DataView(take(4).buffer).getUint32(0, true)));
const { loadPyodide } = await import(`file://${folder.startsWith("/") ? "" : "/"}${encodeURI(folder)}/pyodide.mjs`);
const python = await loadPyodide({
  indexURL: folder,
  jsglobals: Object.freeze(Object.create(null)),
  env: { HOME: "/tmp", TMPDIR: "/tmp", LANG: "C.UTF-8", PATH: "/nonexistent", PYTHONHASHSEED: "0" },
});

// The line ---------------------------------------------------------------------------------------

python.setStdin({ read: (buffer) => stdin.readSync(buffer) ?? 0, isatty: false });
python.setStdout({ write: (buffer) => stdout.writeSync(buffer), isatty: false });
python.setStderr({ write: (buffer) => stderr.writeSync(buffer), isatty: false });

// Python asks this now and then while it runs, as it would look into memory that another thread writes.
const EVERY = 5; // milliseconds
const ALIVE = 500; // milliseconds
const byte = new Uint8Array(1);
let asked = now();
let met = asked;
python.setInterruptBuffer({
  get 0() {
    const time = now();
    if (time - asked < EVERY) return 0;
    asked = time;
    if (time - met > ALIVE) {
      met = time;
      if (process.ppid !== host) exit(1); // nobody is there to end the block
    }
    return interrupted.readSync(byte) ? 2 : 0; // SIGINT
  },
  set 0(_) {},
  length: 1,
});

// Files are memory of this process outside of Python's, which nothing bounds but this ------------

const { FS } = python;
const { MEMFS } = FS.filesystems;
const NO_SPACE = 51;
const bounds = { bytes: Number(scratch), nodes: Number(files) };
let held = { bytes: 0, nodes: 0 };

function count() {
  const seen = new Set(FS.streams.filter(Boolean).map((stream) => stream.node));
  const visit = (node) => {
    seen.add(node);
    if (FS.isDir(node.mode) && node.contents) Object.values(node.contents).forEach(visit);
  };
  visit(FS.root);
  let bytes = 0;
  for (const node of seen) bytes += node.usedBytes || 0;
  held = { bytes, nodes: seen.size };
}

function charge(what, amount) {
  if (amount <= 0) return;
  if (held[what] + amount > bounds[what]) count(); // some may have been deleted
  if (held[what] + amount > bounds[what]) throw new FS.ErrnoError(NO_SPACE);
  held[what] += amount;
}

const streams = MEMFS.ops_table.file.stream;
const { write } = streams;
streams.write = (stream, buffer, offset, length, position, canOwn) => {
  charge("bytes", position + length - (stream.node.usedBytes || 0));
  return write(stream, buffer, offset, length, position, canOwn);
};
const { resizeFileStorage, createNode } = MEMFS;
MEMFS.resizeFileStorage = (node, size) => {
  charge("bytes", size - (node.usedBytes || 0));
  return resizeFileStorage(node, size);
};
MEMFS.createNode = (...given) => {
  charge("nodes", 1);
  return createNode(...given);
};
count();
bounds.bytes += held.bytes;
bounds.nodes += held.nodes;
for (const path of ["/dev/tty", "/dev/tty1"]) FS.unlink(path);
for (const path of ["/dev/shm/tmp", "/dev/shm"]) FS.rmdir(path);

// No rights, and no names to try any with -----------------------------------------------------------

for (const path of [folder, interrupts]) permissions.revokeSync({ name: "read", path });
const KEPT = new Set(
  `Object Function Array Number parseFloat parseInt Infinity NaN undefined Boolean String Symbol Date Promise RegExp
  Error AggregateError EvalError RangeError ReferenceError SyntaxError TypeError URIError globalThis JSON Math Intl
  ArrayBuffer Atomics Uint8Array Int8Array Uint16Array Int16Array Uint32Array Int32Array Float16Array Float32Array
  Float64Array Uint8ClampedArray BigUint64Array BigInt64Array DataView Map BigInt Set WeakMap WeakSet WeakRef Proxy
  Reflect FinalizationRegistry Iterator SuppressedError DisposableStack AsyncDisposableStack decodeURI
  decodeURIComponent encodeURI encodeURIComponent escape unescape isFinite isNaN WebAssembly SharedArrayBuffer
  TextDecoder TextEncoder queueMicrotask setTimeout clearTimeout performance crypto AbortController AbortSignal`
    .split(/\s+/),
);
for (const name of Object.getOwnPropertyNames(globalThis)) {
  if (!KEPT.has(name)) delete globalThis[name];
}

globalThis.console = { log() {}, info() {}, warn() {}, error() {} }; // who made the module calls it

try {
  python.runPython(boot);
} catch (error) {
  stderr.writeSync(new TextEncoder().encode(String(error?.message ?? error).slice(-2000)));
}
exit(1);
