import type { Command } from 'commander'
import { UserError } from '../base/errors.ts'
import { nearest } from '../base/nearest.ts'

/** What other programs call our verbs, and which are meant: of several, the first that a noun has. */
const elsewhere: readonly (readonly [said: readonly string[], meant: readonly string[]])[] = [
  [['show', 'get', 'describe', 'inspect', 'info', 'status'], ['view']],
  [
    ['rm', 'remove', 'del', 'destroy'],
    ['delete', 'revoke'],
  ],
  [
    ['new', 'add', 'make'],
    ['create', 'upload', 'set'],
  ],
  [
    ['submit', 'start', 'create'],
    ['run', 'upload', 'promote'],
  ],
  [
    ['change', 'set'],
    ['edit', 'update'],
  ],
  [['cancel', 'kill'], ['stop']],
  [['ls'], ['list']],
  [['log'], ['logs']],
  [['push'], ['upload']],
]

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
  const others = elsewhere.find(([said]) => said.includes(verb))?.[1] ?? []
  const meant = others.find((one) => verbs.includes(one)) ?? nearest(verb, verbs)
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
