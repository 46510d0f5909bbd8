import { dirname, resolve } from 'node:path'
import type { Command } from 'commander'
import { exitCodes } from '../../base/errors.ts'
import { parseTrainingJob } from '../../train/job.ts'
import { checkData } from '../../train/preflight/data-check.ts'
import { dataReport, derivedText } from '../data-report.ts'
import { cacheFolder } from '../home.ts'
import { readJobFile } from '../job-file.ts'
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
      const job = {
        ...parseTrainingJob(readJobFile(file), dirname(resolve(file))),
        cacheFolder: cacheFolder(),
      }
      if (job.derived !== undefined && flags.json !== true)
        process.stdout.write(`${derivedText(job.derived)}\n\n`)
      const check = await checkData(job, flags.json === true ? () => undefined : note)
      process.stdout.write(
        flags.json === true
          ? `${JSON.stringify(check)}\n`
          : `${dataReport(check, coloursOf(process.stdout))}\n`,
      )
      if (check.refusals.length > 0) process.exitCode = exitCodes.failed
    })
}
