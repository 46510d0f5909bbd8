import { resolve } from 'node:path'
import type { Command } from 'commander'
import { replayStep, type StepReplay } from '../../train/replay-step.ts'
import { wholeNumber } from '../options.ts'
import { dim, note, ProgressLine } from '../terminal.ts'

export function replayStepCommand(program: Command): void {
  program
    .command('replay-step')
    .description("compute a training step again, compare it with the run's ledger, and show its samples")
    .argument('<folder>', "the job's folder: what its file calls out")
    .argument('<step>', 'number of the step, from 0', wholeNumber(0))
    .option('--json', 'print one JSON object')
    .action(async (folder: string, step: number, flags: { json?: boolean }) => {
      const line = new ProgressLine()
      const result = await replayStep(resolve(folder), step, {
        onNote: (text) => line.note(text),
        onProgress: (done) => line.update((done + 1) / (step + 1), `step ${done} of ${step}`),
      })
      line.end()
      process.stdout.write(flags.json === true ? `${JSON.stringify(result)}\n` : report(result))
      if (result.firstDifference !== undefined) process.exitCode = 1
      else note(dim('Every hash agrees with the ledger.'))
    })
}

/** Of a row's text so many characters are shown. */
const textMax = 400

function report({ step, recorded, recomputed, firstDifference, from, samples }: StepReplay): string {
  const verdict = firstDifference === undefined ? 'identical' : `DIFFERENT from step ${firstDifference} on`
  const lines = [
    `step ${step}, computed again from step ${from}: ${verdict}`,
    `  recorded    ${recorded.hash}  loss ${recorded.loss}`,
    `  recomputed  ${recomputed.hash}  loss ${recomputed.loss}`,
    '',
    ...samples.places,
    ...samples.rows.map(
      ({ text, tokens, supervisedTokens }, row) =>
        `\nrow ${row}, ${tokens} tokens, ${supervisedTokens} learned:\n${shortened(text)}`,
    ),
  ]
  return `${lines.join('\n')}\n`
}

function shortened(text: string): string {
  return text.length > textMax ? `${text.slice(0, textMax)} ...` : text
}
