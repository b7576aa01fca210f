// One process at a time in a folder. Node has no lock that the system frees when its holder dies, but a listening
// socket is one: a connection to it is accepted for as long as its process lives, and refused afterwards.
//
// Who wants the folder listens on a socket with a fresh name in it, and only then looks at all others: of any two, the
// one that listens later sees the other one and gives up. Two at the same moment may both give up, and never both go
// on. Only the holder deletes the sockets of the dead; so one that was taken for dead because it was slow to listen
// finds either the holder alive or its own socket gone.

import { createHash, randomBytes } from "node:crypto";
import { readdir, realpath, rm, stat } from "node:fs/promises";
import { connect, createServer, type Server } from "node:net";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { SemelError } from "../error.js";

/** A folder that is ours. */
export interface Lock {
  free(): Promise<void>;
}

/** No path of a socket is longer on any system, in bytes. */
const SOCKET_PATH_BYTES_MAX = 103;
/** Two at the same moment both give up, and try again so often after a pause of at most so many milliseconds. */
const TRIES_MAX = 4;
const PAUSE_MAX_MS = 50;

/** Takes the folder, or throws `journal-locked`. */
export async function lockFolder(folder: string): Promise<Lock> {
  const real = await realpath(folder);
  for (let tries = 1; ; tries++) {
    const lock = await (process.platform === "win32" ? lockPipe(real) : lockSocket(real));
    if (lock) return lock;
    if (tries === TRIES_MAX) throw new SemelError("journal-locked", `another process uses the journal ${folder}`);
    await pause(Math.random() * PAUSE_MAX_MS);
  }
}

async function lockSocket(folder: string): Promise<Lock | undefined> {
  const mine = `lock.${randomBytes(4).toString("hex")}`;
  const path = join(folder, mine);
  if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX) {
    const bytes_max = SOCKET_PATH_BYTES_MAX - mine.length - 1;
    throw new SemelError("journal-unusable", `the path of the journal ${folder} has more than ${bytes_max} bytes`);
  }
  const server = await listen(path);
  if (!server) return undefined;
  const others = (await readdir(folder)).filter((name) => name.startsWith("lock.") && name !== mine);
  const alive = await Promise.all(others.map((name) => isAlive(join(folder, name))));
  if (alive.includes(true) || !(await isThere(path))) {
    await close(server);
    return undefined;
  }
  for (const name of others) await rm(join(folder, name), { force: true });
  return { free: () => close(server) };
}

/** Windows frees the name of a pipe with its process. */
async function lockPipe(folder: string): Promise<Lock | undefined> {
  const name = createHash("sha256").update(folder.toLowerCase()).digest("hex");
  const server = await listen(`\\\\.\\pipe\\semel-${name}`);
  return server && { free: () => close(server) };
}

/** A server that nobody needs to wait for; undefined if somebody has that name. */
function listen(path: string): Promise<Server | undefined> {
  return new Promise((done, failed) => {
    const server = createServer((socket) => socket.destroy());
    server.once("error", (error: NodeJS.ErrnoException) =>
      error.code === "EADDRINUSE" ? done(undefined) : failed(error),
    );
    server.listen({ path }, () => done(server.unref()));
  });
}

/** Deletes the socket, too. */
function close(server: Server): Promise<void> {
  return new Promise((done) => server.close(() => done()));
}

/** Whether its process lives; anything but a refusal is taken for a yes. */
function isAlive(path: string): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect({ path });
    socket.once("connect", () => {
      socket.destroy();
      done(true);
    });
    socket.once("error", ({ code }: NodeJS.ErrnoException) => done(code !== "ECONNREFUSED" && code !== "ENOENT"));
  });
}

function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
