import { UserError } from '../base/errors.ts'

/** A JSON object read by field name and expected type; what does not fit is a UserError that names its path. */
export class JsonFields {
  readonly where: string
  readonly #object: Record<string, unknown>

  constructor(value: unknown, where: string) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(where, 'an object')
    this.where = where
    this.#object = value as Record<string, unknown>
  }

  /** The field as it is; null counts as absent. */
  raw(name: string): unknown {
    return this.#object[name] ?? undefined
  }

  string(name: string, absent?: string): string {
    const value = this.raw(name) ?? absent
    if (typeof value !== 'string') throw wrong(`${this.where}.${name}`, 'a string')
    return value
  }

  boolean(name: string, absent: boolean): boolean {
    const value = this.raw(name) ?? absent
    if (typeof value !== 'boolean') throw wrong(`${this.where}.${name}`, 'true or false')
    return value
  }

  /** A whole number >= 0. */
  count(name: string, absent?: number): number {
    const value = this.raw(name) ?? absent
    if (!isCount(value)) throw wrong(`${this.where}.${name}`, 'a whole number')
    return value
  }

  list(name: string): readonly unknown[] {
    const value = this.raw(name)
    if (!Array.isArray(value)) throw wrong(`${this.where}.${name}`, 'a list')
    return value
  }

  counts(name: string): readonly number[] {
    const values = this.list(name)
    if (!values.every(isCount)) throw wrong(`${this.where}.${name}`, 'a list of whole numbers')
    return values as number[]
  }

  fields(name: string): JsonFields {
    return new JsonFields(this.raw(name), `${this.where}.${name}`)
  }

  fieldsList(name: string): JsonFields[] {
    return this.list(name).map((item, index) => new JsonFields(item, `${this.where}.${name}[${index}]`))
  }

  /** An object with names of its own, such as a vocabulary. */
  object(name: string): Readonly<Record<string, unknown>> {
    return this.fields(name).#object
  }

  names(): string[] {
    return Object.keys(this.#object)
  }
}

/** A tokenizer component that Ropeway does not have: `kind` is its place, such as "pre-tokenizer". */
export function unknownComponent(kind: string, name: string, where: string): UserError {
  return new UserError(`${where}: the ${kind} "${name}" is not supported`, {
    fix: 'Use a tokenizer of the byte-level BPE, SentencePiece BPE or Unigram family.',
  })
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function wrong(where: string, expected: string): UserError {
  return new UserError(`${where} is not ${expected}`, {
    fix: 'The file is damaged or not a tokenizer; fetch it again.',
  })
}
