/**
 * A wrapper that stops (SIGSTOP) before the n-th time that it reads or changes what its run is known by; STOP_BEFORE is n.
 * The test then kills it, or lets it go on (SIGCONT) when other things have happened.
 */
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { runWrapper } from '../../src/control/launchers/local/wrapper.ts'

const before = Number(process.env.STOP_BEFORE)
let calls = 0

function stopping<Arguments extends unknown[], Result>(call: (...given: Arguments) => Result) {
  return (...given: Arguments): Result => {
    // What it looks up of processes is no step of its own.
    const isOfSystem = String(given[0]).startsWith('/proc')
    if (!isOfSystem && ++calls === before) process.kill(process.pid, 'SIGSTOP')
    return call(...given)
  }
}

fs.readFileSync = stopping(fs.readFileSync as (...given: unknown[]) => unknown) as typeof fs.readFileSync
fs.existsSync = stopping(fs.existsSync)
fs.openSync = stopping(fs.openSync)
fs.linkSync = stopping(fs.linkSync)
fs.renameSync = stopping(fs.renameSync)
syncBuiltinESMExports()

// How many steps there are, for whoever wants to stop it before each of them.
process.on('exit', () => console.error(`steps ${calls}`))
await runWrapper(process.argv[2]!)
process.exit(0)
