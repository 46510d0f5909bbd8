import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { viewJob } from '../../api/control/job-endpoints.ts'
import { UserError } from '../../base/errors.ts'
import { JobFolders } from '../../control/jobs/folders.ts'
import { replayStep, type StepReplay } from '../../train/replay-step.ts'
import { isServiceKnown } from '../contexts.ts'
import { decodeWithEngine } from '../decoder.ts'
import { type NounFlags, sessionOf } from '../noun.ts'
import { wholeNumber } from '../options.ts'
import { dataOf } from '../service-data.ts'
import { dim, note, ProgressLine } from '../terminal.ts'

interface ReplayFlags extends NounFlags {
  data?: string
}

export function replayStepCommand(program: Command): void {
  program
    .command('replay-step')
    .description("compute a training step again, compare it with the run's ledger, and show its samples")
    .argument('<job>', "the job's folder (what its file calls out), or a job of the service on this machine")
    .argument('<step>', 'number of the step, from 0', wholeNumber(0))
    .option('--data <folder>', 'where the service keeps everything (default: service in the home of Ropeway)')
    .option('--json', 'print one JSON object')
    .option('--context <name>', 'the service to talk to (ropeway context)')
    .option('--project <name>', 'the project, if not that of the context')
    .action(async (job: string, step: number, flags: ReplayFlags) => {
      const folder = existsSync(job) ? resolve(job) : await folderOfJob(job, flags)
      const line = new ProgressLine()
      const result = await replayStep(folder, step, {
        decode: decodeWithEngine,
        onNote: (text) => line.note(text),
        onProgress: (done) => line.update((done + 1) / (step + 1), `step ${done} of ${step}`),
      })
      line.end()
      process.stdout.write(flags.json === true ? `${JSON.stringify(result)}\n` : report(result))
      if (result.firstDifference !== undefined) process.exitCode = 1
      else note(dim('Every hash agrees with the ledger.'))
    })
}

/** Where a job of the service has its output, when the service runs here. */
async function folderOfJob(typed: string, flags: ReplayFlags): Promise<string> {
  if (!isServiceKnown(flags.context))
    throw new UserError(`There is no folder ${typed}.`, {
      failure: 'not_found',
      fix: "Give the job's folder, or log in to the service whose job it is: ropeway login URL.",
    })
  const { client, project } = sessionOf(flags)
  const { id, name } = await client.call(viewJob, { params: { project, job: typed } })
  const folder = new JobFolders(join(dataOf(flags).folder, 'jobs')).output(id)
  if (existsSync(folder)) return folder
  throw new UserError(`The files of ${name} are not in ${folder}.`, {
    failure: 'not_found',
    fix: 'Run this on the machine of the service, with the --data that the service was started with.',
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
