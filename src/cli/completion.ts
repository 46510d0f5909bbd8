/** What a shell may complete after the words typed so far: from the command tree, and names from the service. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Command, Option } from 'commander'
import { z } from 'zod'
import { jobStateNames } from '../api/control/jobs.ts'
import { listClusters } from '../api/control/machine-endpoints.ts'
import { listProjects } from '../api/control/projects.ts'
import { systemClock } from '../base/clock.ts'
import { readJsonFile, writeFileAtomic } from '../base/files.ts'
import { readContexts } from './contexts.ts'
import { cacheFolder } from './home.ts'
import { all, type Completer, completerOf, type NounFlags, sessionOf } from './noun.ts'

/** A shell waits for this; a service that is slow or away gives no names. */
const nameWaitMs = 1500
/** While somebody types one command line, the service is asked once. */
const keptMs = 15_000
/** Names from before are better than none when the service is away. */
const staleMs = 3_600_000
const keptBytesMax = 1 << 20

/** `words` are those after `ropeway`; the last is being typed and may be empty. */
export async function completions(program: Command, words: readonly string[]): Promise<string[]> {
  const typed = words.at(-1) ?? ''
  const { command, positionals, flags, pending } = walk(program, words.slice(0, -1))
  if (pending !== undefined) return matching(await valuesOf(pending, flags), typed)
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

/** Options whose values the service knows, whatever the command. */
const optionValues: Readonly<Record<string, Completer>> = {
  project: async ({ client }) => (await all(client.items(listProjects, {}))).map(({ name }) => name),
  cluster: async ({ client }) => (await client.call(listClusters, {})).items.map(({ name }) => name),
}

async function valuesOf(option: Option, flags: NounFlags): Promise<readonly string[]> {
  const name = option.attributeName()
  if (option.argChoices !== undefined) return option.argChoices
  if (name === 'context') return Object.keys(readContexts().contexts)
  if (name === 'state') return jobStateNames
  const completer = optionValues[name]
  return completer === undefined ? [] : await kept(`option ${name}`, completer, flags)
}

async function names(command: Command, flags: NounFlags): Promise<string[]> {
  const completer = completerOf(command)
  if (completer === undefined) return []
  const path = [command.name(), ...(command.parent === null ? [] : [command.parent.name()])]
  return await kept(`argument ${path.join(' ')}`, completer, flags)
}

const keptNames = z.object({ at: z.number(), names: z.array(z.string()) })

/** What the completer says, or said a moment ago. Never throws: whatever is wrong is said when the command runs. */
async function kept(what: string, completer: Completer, flags: NounFlags): Promise<string[]> {
  let known: z.output<typeof keptNames> | undefined
  try {
    const session = sessionOf(flags)
    const project = session.projectOrNone ?? ''
    const key = createHash('sha256').update(
      JSON.stringify([session.client.url, session.contextName, project, what]),
    )
    const folder = join(cacheFolder(), 'completion')
    const file = join(folder, `${key.digest('hex')}.json`)
    const nowMs = systemClock.unixMs()
    const read = existsSync(file) ? keptNames.safeParse(readJsonFile(file)) : undefined
    if (read?.success === true && nowMs - read.data.at < staleMs) known = read.data
    if (known !== undefined && nowMs - known.at < keptMs) return known.names
    const late = new Promise<undefined>((resolve) => setTimeout(resolve, nameWaitMs, undefined).unref())
    const found = await Promise.race([completer(session), late])
    if (found === undefined) return known?.names ?? []
    const text = JSON.stringify({ at: nowMs, names: found })
    // Names of a project are for its members.
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    if (text.length <= keptBytesMax) writeFileAtomic(file, text)
    return found
  } catch {
    // A shell that completes has no place for a message.
    return known?.names ?? []
  }
}

function optionsOf(command: Command): string[] {
  return [...command.options.flatMap(({ long }) => (long === undefined ? [] : [long])), '--help']
}

function matching(candidates: readonly string[], typed: string): string[] {
  return [...new Set(candidates)].filter((candidate) => candidate.startsWith(typed)).sort()
}
