import type { Command } from 'commander'
import { UserError } from '../base/errors.ts'
import { nearest } from '../base/nearest.ts'

/** What other programs call our verbs; of several, the first that a noun has. */
const elsewhere: Readonly<Record<string, readonly string[]>> = {
  ...Object.fromEntries(
    ['show', 'get', 'describe', 'inspect', 'info', 'status'].map((one) => [one, ['view']]),
  ),
  ...Object.fromEntries(['rm', 'remove', 'del', 'destroy'].map((one) => [one, ['delete', 'revoke']])),
  ...Object.fromEntries(['new', 'add', 'make'].map((one) => [one, ['create', 'upload', 'set']])),
  ...Object.fromEntries(['submit', 'start', 'create'].map((one) => [one, ['run', 'upload', 'promote']])),
  ...Object.fromEntries(['change', 'set'].map((one) => [one, ['edit', 'update']])),
  cancel: ['stop'],
  kill: ['stop'],
  ls: ['list'],
  log: ['logs'],
  push: ['upload'],
}

/**
 * Refuses `ropeway NOUN VERB ...` with a verb that the noun does not have: without this its list, which is what a
 * noun alone means, is told to have too many arguments.
 */
export function refuseUnknownVerb(program: Command, [first, verb]: readonly string[]): void {
  const noun = program.commands.find((one) => namesOf(one).includes(first ?? ''))
  if (noun === undefined || noun.commands.length === 0 || verb === undefined || verb.startsWith('-')) return
  const verbs = noun.commands.map((one) => one.name())
  const takesNames = noun.registeredArguments.length > 0
  if (takesNames || verb === 'help' || noun.commands.some((one) => namesOf(one).includes(verb))) return
  const meant = elsewhere[verb]?.find((one) => verbs.includes(one)) ?? nearest(verb, verbs)
  throw new UserError(
    `There is no command ${JSON.stringify(verb.slice(0, 100))} of ropeway ${noun.name()}.`,
    {
      failure: 'usage',
      fix:
        meant === undefined
          ? `Those there are: ${verbs.join(', ')}.`
          : `\`ropeway ${noun.name()} ${meant}\` may be meant; --help shows all.`,
    },
  )
}

function namesOf(command: Command): string[] {
  return [command.name(), ...command.aliases()]
}
