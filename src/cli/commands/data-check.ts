import { dirname, resolve } from 'node:path'
import type { Command } from 'commander'
import { exitCodes } from '../../base/errors.ts'
import { checkJob } from '../../train/preflight/job-check.ts'
import { dataReport, derivedText, needsText } from '../data-report.ts'
import { readJobFile, trainingJobOf } from '../job-file.ts'
import { coloursOf, note } from '../terminal.ts'

/** `ropeway data check FILE`: what a job would learn from, before it starts. */
export function dataCheckCommand(program: Command): void {
  const data =
    program.commands.find((command) => command.name() === 'data') ??
    program.command('data').description('what models learn from')
  data
    .command('check')
    .description('show what a job would learn from, and what speaks against it')
    .argument('<file>', 'job file (YAML)')
    .option('--json', 'print one JSON object')
    .action(async (file: string, flags: { json?: boolean }) => {
      const job = trainingJobOf(readJobFile(file), dirname(resolve(file)))
      if (job.derived !== undefined && flags.json !== true)
        process.stdout.write(`${derivedText(job.derived)}\n\n`)
      const { data: check, needs, pace } = await checkJob(job, flags.json === true ? () => undefined : note)
      const colours = coloursOf(process.stdout)
      process.stdout.write(
        flags.json === true
          ? `${JSON.stringify({ derived: job.derived, ...check, needs, pace })}\n`
          : `${dataReport(check, colours)}\n\n${needsText(needs, pace, colours)}\n`,
      )
      if (check.refusals.length > 0) process.exitCode = exitCodes.failed
    })
}
