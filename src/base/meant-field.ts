/** Which field was probably meant by a name that is none where it stands. */
import { nearest } from './nearest.ts'

/** Names of fields at any depth -> paths of what holds them, '' for the whole. Entries of a list have no part in a path. */
export type FieldPlaces = ReadonlyMap<string, readonly string[]>

/** The places of a JSON schema. */
export function fieldPlaces(schema: unknown): FieldPlaces {
  const places = new Map<string, string[]>()
  gather(schema, '', places)
  return places
}

/** Whether `name` is a field of what stands at `path`, if only beside other ones than there are. */
export function standsAt(path: string, name: string, places: FieldPlaces): boolean {
  return places.get(name)?.includes(withoutIndices(path)) ?? false
}

/**
 * What to say of `name`, which is no field of what stands at `path`: `steps`, `optimizer.steps` or `a.steps or b.steps`
 * where it belongs elsewhere. Undefined where nothing is like it.
 */
export function meantField(path: string, name: string, places: FieldPlaces): string | undefined {
  const here = withoutIndices(path)
  const siblings = [...places].flatMap(([field, parents]) => (parents.includes(here) ? [field] : []))
  const sibling = places.has(name) ? undefined : nearest(name, siblings)
  if (sibling !== undefined) return sibling
  const field = places.has(name) ? name : nearest(name, places.keys())
  if (field === undefined) return undefined
  const names = places.get(field)!.map((parent) => {
    if (parent !== '') return `${parent}.${field}`
    return here === '' ? field : `${field} outside of ${path}`
  })
  return names.join(' or ')
}

function withoutIndices(path: string): string {
  const parts = path.split('.').filter((part) => !/^\d+$/.test(part))
  return parts.join('.')
}

function gather(schema: unknown, parent: string, places: Map<string, string[]>): void {
  if (typeof schema !== 'object' || schema === null) return
  for (const [key, value] of Object.entries(schema)) {
    if (key !== 'properties') {
      gather(value, parent, places)
      continue
    }
    for (const [name, inner] of Object.entries(value as object)) {
      const parents = places.get(name) ?? []
      if (!parents.includes(parent)) places.set(name, [...parents, parent])
      gather(inner, parent === '' ? name : `${parent}.${name}`, places)
    }
  }
}
