/** What a shell may complete after the words typed so far: from the command tree, and names from the service. */
import type { Command, Option } from 'commander'
import { completerOf, type NounFlags, sessionOf } from './noun.ts'

/** A shell waits for this; a service that is slow or away gives no names. */
const nameWaitMs = 1500

/** `words` are those after `ropeway`; the last is being typed and may be empty. */
export async function completions(program: Command, words: readonly string[]): Promise<string[]> {
  const typed = words.at(-1) ?? ''
  const { command, positionals, flags, pending } = walk(program, words.slice(0, -1))
  if (pending !== undefined) return matching(pending.argChoices ?? [], typed)
  if (typed.startsWith('-')) return matching(optionsOf(command), typed)
  const nested = command.commands.filter(({ _hidden }: Command & { _hidden?: boolean }) => _hidden !== true)
  if (nested.length > 0 && positionals === 0)
    return matching(
      nested.map((inner) => inner.name()),
      typed,
    )
  return matching(positionals === 0 ? await names(command, flags) : [], typed)
}

interface Walked {
  command: Command
  positionals: number
  flags: NounFlags
  /** The option whose value is being typed. */
  pending: Option | undefined
}

function walk(program: Command, words: readonly string[]): Walked {
  let command = program
  let positionals = 0
  let pending: Option | undefined
  const flags: NounFlags = {}
  for (const word of words) {
    if (pending !== undefined) {
      if (pending.attributeName() === 'context') flags.context = word
      if (pending.attributeName() === 'project') flags.project = word
      pending = undefined
      continue
    }
    if (word.startsWith('-')) {
      const option = command.options.find(({ long, short }) => long === word || short === word)
      if (option !== undefined && (option.required || option.optional)) pending = option
      continue
    }
    const inner = command.commands.find(
      (candidate) => candidate.name() === word || candidate.aliases().includes(word),
    )
    if (inner !== undefined && positionals === 0) command = inner
    else positionals++
  }
  return { command, positionals, flags, pending }
}

async function names(command: Command, flags: NounFlags): Promise<string[]> {
  const completer = completerOf(command)
  if (completer === undefined) return []
  const late = new Promise<string[]>((resolve) => setTimeout(resolve, nameWaitMs, []).unref())
  try {
    return await Promise.race([completer(sessionOf(flags)), late])
  } catch {
    // Whatever is wrong is said when the command runs; a completion says nothing.
    return []
  }
}

function optionsOf(command: Command): string[] {
  return [...command.options.flatMap(({ long }) => (long === undefined ? [] : [long])), '--help']
}

function matching(candidates: readonly string[], typed: string): string[] {
  return candidates.filter((candidate) => candidate.startsWith(typed)).sort()
}
