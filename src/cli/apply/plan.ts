/** What `apply` would do: a step for each document, and how steps are shown. */
import { isDeepStrictEqual } from 'node:util'
import type { Client } from '../../api/control/client.ts'
import type { Manifest, ManifestOf } from '../../api/control/manifest.ts'
import { Refused } from '../../api/control/problem.ts'

/** A field that is to be another. */
export interface Change {
  /** `scaling.max` */
  readonly field: string
  readonly from: unknown
  readonly to: unknown
}

/** What is to be done about one thing. */
export interface Step {
  readonly does: 'create' | 'change' | 'nothing'
  /** For people, in a few words. */
  readonly says: string
  readonly changes: readonly Change[]
  /** Does it, and returns what the service made of it. */
  act(): Promise<unknown>
}

export interface Target {
  readonly client: Client
  readonly project: string
  /** The file that is applied. It is part of no job: what is mended in it would make another of each. */
  readonly manifest: string
}

export type Planner<Kind extends Manifest['kind']> = (
  target: Target,
  wanted: ManifestOf<Kind>,
) => Promise<Step>

export function creating(says: string, act: () => Promise<unknown>): Step {
  return { does: 'create', says, changes: [], act }
}

/** A change where there are any, and otherwise nothing. */
export function changing(changes: readonly Change[], act: () => Promise<unknown>, says = ''): Step {
  if (changes.length > 0) return { does: 'change', says, changes, act }
  return { does: 'nothing', says: 'it is so', changes, act: async () => undefined }
}

export function unchanged(says: string): Step {
  return { does: 'nothing', says, changes: [], act: async () => undefined }
}

/** Which fields of `to` are not as in `from`. Lists are compared as a whole; what is undefined is not there. */
export function differences(from: unknown, to: unknown, field = ''): Change[] {
  if (isObject(from) && isObject(to))
    return [...new Set([...Object.keys(from), ...Object.keys(to)])].flatMap((name) =>
      differences(from[name], to[name], field === '' ? name : `${field}.${name}`),
    )
  return isDeepStrictEqual(plain(from), plain(to)) ? [] : [{ field, from, to }]
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** As it goes over the wire. */
function plain(value: unknown): unknown {
  return value === undefined ? undefined : JSON.parse(JSON.stringify(value))
}

const shownCharactersMax = 60

/** `scaling.max: 1 -> 3` */
export function changeText({ field, from, to }: Change): string {
  if (from === undefined) return `${field}: ${shown(to)}`
  if (to === undefined) return `${field}: ${shown(from)} -> none`
  return `${field}: ${shown(from)} -> ${shown(to)}`
}

function shown(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? 'none')
  const printable = text.replace(/\p{Cc}+/gu, ' ')
  return printable.length > shownCharactersMax ? `${printable.slice(0, shownCharactersMax)}...` : printable
}

/** What `ask` answers, or undefined where there is no such thing (or no such project yet). */
export async function unlessMissing<Answer>(ask: Promise<Answer>): Promise<Answer | undefined> {
  try {
    return await ask
  } catch (error) {
    if (error instanceof Refused && error.code === 'not_found') return undefined
    throw error
  }
}

/** The thing of exactly this name: a plan is not made by the beginning of a name. */
export async function exactly<Answer extends { name: string }>(
  name: string,
  ask: Promise<Answer>,
): Promise<Answer | undefined> {
  try {
    const found = await unlessMissing(ask)
    return found?.name === name ? found : undefined
  } catch (error) {
    // The beginning of several names.
    if (error instanceof Refused && ['invalid_request', 'conflict'].includes(error.code)) return undefined
    throw error
  }
}
