/** The `ropeway` that a shell starts. */
import { main } from './program.ts'

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // `ropeway ... | head` closes our output: the reader has what it wanted.
  if (error.code === 'EPIPE') process.exit(0)
  throw error
})

process.exitCode = await main(process.argv.slice(2))
