/** The command line: one file per command; this one only puts them together and turns failures into exit codes. */
import { Command, CommanderError } from 'commander'
import { problemCodes, Refused } from '../api/control/problem.ts'
import { exitCodes, systemRefusal, UserError } from '../base/errors.ts'
import { applyCommand } from './commands/apply.ts'
import { auditCommand } from './commands/audit.ts'
import { backupCommands } from './commands/backup.ts'
import { benchCommand } from './commands/bench.ts'
import { chatCommand } from './commands/chat.ts'
import { checkpointCommand } from './commands/checkpoints.ts'
import { completionCommands } from './commands/completion.ts'
import { consoleCommand } from './commands/console.ts'
import { contextCommand } from './commands/context.ts'
import { credentialCommand } from './commands/credentials.ts'
import { curveCommand } from './commands/curve.ts'
import { dataCheckCommand } from './commands/data-check.ts'
import { datasetCommand } from './commands/datasets.ts'
import { deploymentCommand } from './commands/deployments.ts'
import { doctorCommand } from './commands/doctor.ts'
import { exportCommand } from './commands/export.ts'
import { gatewayCommand } from './commands/gateway.ts'
import { generateCommand } from './commands/generate.ts'
import { jobCommand } from './commands/job.ts'
import { keyCommand } from './commands/keys.ts'
import { loginCommands } from './commands/login.ts'
import { clusterCommand, quotaCommand } from './commands/machines.ts'
import { modelCommand } from './commands/models.ts'
import { organisationCommand } from './commands/organisations.ts'
import { priceCommand } from './commands/prices.ts'
import { projectCommand } from './commands/projects.ts'
import { replayCommand } from './commands/replay.ts'
import { replayStepCommand } from './commands/replay-step.ts'
import { schemaCommand } from './commands/schema.ts'
import { secondFactorCommand } from './commands/second-factor.ts'
import { serveCommand } from './commands/serve.ts'
import { sessionCommand } from './commands/sessions.ts'
import { simulateCommand } from './commands/simulate.ts'
import { startCommand } from './commands/start.ts'
import { templateCommand } from './commands/template.ts'
import { trainCommand } from './commands/train.ts'
import { upCommand } from './commands/up.ts'
import { usageCommand } from './commands/usage.ts'
import { dim, note, red } from './terminal.ts'
import { refuseUnknownVerb } from './unknown-verb.ts'

export function buildProgram(): Command {
  const program = new Command('ropeway')
    .description('Train and serve your own generative language models.')
    .version('0.1.0')
    .showHelpAfterError('(--help shows what there is)')
    .exitOverride()
  startCommand(program)
  upCommand(program)
  loginCommands(program)
  secondFactorCommand(program)
  sessionCommand(program)
  consoleCommand(program)
  contextCommand(program)
  organisationCommand(program)
  projectCommand(program)
  keyCommand(program)
  deploymentCommand(program)
  usageCommand(program)
  priceCommand(program)
  credentialCommand(program)
  auditCommand(program)
  jobCommand(program)
  templateCommand(program)
  clusterCommand(program)
  quotaCommand(program)
  datasetCommand(program)
  checkpointCommand(program)
  modelCommand(program)
  applyCommand(program)
  schemaCommand(program)
  backupCommands(program)
  serveCommand(program)
  gatewayCommand(program)
  generateCommand(program)
  chatCommand(program)
  trainCommand(program)
  dataCheckCommand(program)
  exportCommand(program)
  benchCommand(program)
  simulateCommand(program)
  replayCommand(program)
  replayStepCommand(program)
  curveCommand(program)
  doctorCommand(program)
  completionCommands(program)
  for (const command of program.commands) {
    const also = otherNames[command.name()] ?? (isNoun(command) ? [`${command.name()}s`] : [])
    if (also.length > 0) command.aliases(also)
    overrideExit(command)
  }
  return program
}

/** Nouns are typed in the singular or the plural; these have no plural that is made by an s. */
const otherNames: Readonly<Record<string, readonly string[]>> = {
  ...{ org: ['orgs', 'organisation', 'organisations'], audit: [], usage: [], data: [], bench: [] },
}

function isNoun(command: Command): boolean {
  return command.commands.some((verb) => verb.name() === 'list')
}

/** Subcommands exit on their own unless told not to. */
function overrideExit(command: Command): void {
  command.exitOverride()
  for (const nested of command.commands) overrideExit(nested)
}

/** Runs one command line; returns its exit code. */
export async function main(args: readonly string[]): Promise<number> {
  try {
    const program = buildProgram()
    refuseUnknownVerb(program, args)
    await program.parseAsync([...args], { from: 'user' })
    return typeof process.exitCode === 'number' ? process.exitCode : 0
  } catch (error) {
    return explain(error)
  }
}

function explain(thrown: unknown): number {
  const error = systemRefusal(thrown) ?? thrown
  // commander has printed its own message; asking for help is no failure.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : exitCodes.usage
  if (error instanceof UserError) {
    note(`${red('error:')} ${error.message}`)
    if (error.fix !== undefined) note(dim(error.fix))
    return exitCodes[error.failure]
  }
  if (error instanceof Refused) {
    note(`${red('error:')} ${error.param === undefined ? '' : `${error.param}: `}${error.message}`)
    if (error.fix !== undefined) note(dim(error.fix))
    return exitCodes[problemCodes[error.code].failure]
  }
  note(`${red('This is a bug in Ropeway:')} ${error instanceof Error ? error.stack : String(error)}`)
  return exitCodes.failed
}
