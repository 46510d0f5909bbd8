import type { Command } from 'commander'
import { UserError } from '../../base/errors.ts'
import { readContexts, writeContexts } from '../contexts.ts'
import { Output, type OutputFlags } from '../output.ts'
import { note } from '../terminal.ts'

export function contextCommand(program: Command): void {
  const noun = program.command('context').description('the services that this command line knows')
  noun
    .command('list', { isDefault: true })
    .description('list them; the current one has a star')
    .option('--json', 'JSON on stdout, one object a line')
    .option('-q, --quiet', 'names alone on stdout')
    .action(runList)
  noun.command('use').description('make one the current one').argument('<name>').action(runUse)
  noun.command('remove').description('forget one, with its token').argument('<name>').action(runRemove)
}

async function runList(flags: OutputFlags): Promise<void> {
  const { current, contexts } = readContexts()
  const items = Object.entries(contexts).map(([id, { url, project, token }]) => ({
    ...{ id, url, project: project ?? null },
    current: id === current,
    logged_in: token !== undefined,
  }))
  new Output(flags).list(items, {
    '': (item) => (item.current ? '*' : ' '),
    NAME: ({ id }) => id,
    SERVICE: ({ url }) => url,
    PROJECT: ({ project }) => project,
    'LOGGED IN': (item) => (item.logged_in ? 'yes' : 'no'),
  })
}

async function runUse(name: string): Promise<void> {
  const { contexts } = readContexts()
  if (contexts[name] === undefined) throw unknown(name)
  writeContexts({ current: name, contexts })
  note(`The current context is ${name}.`)
}

async function runRemove(name: string): Promise<void> {
  const { current, contexts } = readContexts()
  if (contexts[name] === undefined) throw unknown(name)
  const { [name]: _, ...rest } = contexts
  writeContexts({ ...(current !== undefined && current !== name && { current }), contexts: rest })
  note(`Forgot ${name}.`)
}

function unknown(name: string): UserError {
  return new UserError(`There is no context ${name}.`, {
    failure: 'not_found',
    fix: 'ropeway context lists them.',
  })
}
