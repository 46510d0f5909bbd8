import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Command } from 'commander'
import { UserError } from '../../base/errors.ts'
import { type Decision, type Replay, Replayer } from '../../serve/decision-log.ts'

export function replayCommand(program: Command): void {
  program
    .command('replay')
    .description('run the scheduler again over a decision log and compare every plan with the recorded one')
    .argument('<log>', 'a file that --decisions wrote; it holds the token ids of prompts and answers')
    .option('--json', 'print one JSON object')
    .action(async (path: string, flags: { json?: boolean }) => {
      const result = await replayFile(path)
      process.stdout.write(flags.json === true ? `${JSON.stringify(result)}\n` : report(result))
      if (result.difference !== undefined) process.exitCode = 1
    })
}

/** Replays a log of any length in little memory. */
export async function replayFile(path: string): Promise<Replay> {
  const stream = createReadStream(path)
  await once(stream, 'open').catch((error: NodeJS.ErrnoException) => {
    throw new UserError(`${path} cannot be read: ${error.code ?? error.message}.`, {
      failure: error.code === 'ENOENT' ? 'not_found' : 'failed',
      cause: error,
    })
  })
  const replayer = new Replayer()
  let number = 0
  /** A line that is no JSON; at the end of the file it is one that a crash cut off. */
  let torn: number | undefined
  for await (const line of createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY })) {
    number++
    if (torn !== undefined) throw notALog(path, torn)
    const decision = parse(line)
    if (decision === undefined) torn = number
    else if (!replayer.take(decision)) break
  }
  if (number === 0 || torn === 1) throw notALog(path, 1)
  return replayer.result
}

function parse(line: string): Decision | undefined {
  try {
    return JSON.parse(line) as Decision
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

function notALog(path: string, line: number): UserError {
  return new UserError(`${path} is no decision log: line ${line} is not a decision.`, {
    fix: 'Record one with --decisions FILE, for example: ropeway serve MODEL --decisions FILE',
  })
}

function report({ iterations, difference }: Replay): string {
  if (difference === undefined) return `${iterations} iterations: identical\n`
  const { line, logged, replayed } = difference
  return (
    `${iterations} iterations identical, then line ${line} differs\n` +
    `  recorded: ${logged}\n  replayed: ${replayed}\n`
  )
}
