/** `ropeway train FILE --here` for `run:` files, without the rest of the command line: it starts faster. */
import { readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { exitCodes, UserError } from '../../src/base/errors.ts'
import { runProgram } from '../../src/cli/run-program.ts'

const file = process.argv[2]!
try {
  await runProgram(JSON.parse(readFileSync(file, 'utf8')), dirname(file), {})
} catch (error) {
  if (!(error instanceof UserError)) throw error
  console.error(error.message)
  process.exitCode = exitCodes[error.failure]
}
