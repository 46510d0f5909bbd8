import { UserError } from '../base/errors.ts'
import { headWidthMax } from '../formats/gguf-config.ts'

/** Some ten times those of the deepest models there are. */
export const layersMax = 1024

/** Each expert of each layer is written down before a file is looked into; the largest mixtures have some hundreds. */
const expertsMax = 4096

/** Reads fields of a config.json with errors that name the field. */
export class ConfigFields {
  readonly source: Record<string, unknown>

  constructor(source: Record<string, unknown>) {
    this.source = source
  }

  /** A whole number in [1, 2^31). */
  count(field: string, fallback?: number): number {
    const value = this.source[field] ?? fallback
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > 0x7fffffff) {
      throw this.refuse(field, value, 'a whole number of at least 1')
    }
    return value
  }

  /** How many layers there are: enough for any model, few enough to write their parameters down. */
  layers(field: string): number {
    return this.#countTo(layersMax, field)
  }

  /** How many experts a layer has, for the same reason. */
  experts(field: string): number {
    return this.#countTo(expertsMax, field)
  }

  /** D. For each pair of a head a rotary angle is computed before a file is looked into. */
  headWidth(field: string, fallback: number): number {
    return this.#countTo(headWidthMax, field, fallback)
  }

  #countTo(most: number, field: string, fallback?: number): number {
    const count = this.count(field, fallback)
    if (count > most) throw this.refuse(field, count, `at most ${most}`)
    return count
  }

  number(field: string, fallback?: number): number {
    const value = this.source[field] ?? fallback
    if (typeof value !== 'number' || !Number.isFinite(value)) throw this.refuse(field, value, 'a number')
    return value
  }

  /** A number that is above 0 in single precision, in which native code computes: it ends the process over another. */
  positive(field: string, fallback?: number): number {
    const value = this.number(field, fallback)
    const single = Math.fround(value)
    if (single <= 0 || !Number.isFinite(single))
      throw this.refuse(field, value, 'above 0, and a 32-bit float')
    return value
  }

  flag(field: string, fallback: boolean): boolean {
    const value = this.source[field] ?? fallback
    if (typeof value !== 'boolean') throw this.refuse(field, value, 'true or false')
    return value
  }

  /** Refuses a configuration whose feature is not built rather than computing something else. */
  only(field: string, allowed: readonly unknown[]): void {
    const value = this.source[field]
    if (value !== undefined && value !== null && !allowed.includes(value)) {
      throw this.refuse(field, value, `one of ${allowed.map((entry) => JSON.stringify(entry)).join(', ')}`)
    }
  }

  refuse(field: string, value: unknown, expected: string): UserError {
    const shown = value === undefined ? 'missing' : JSON.stringify(value)
    return new UserError(`config.json: ${field} is ${shown}; it must be ${expected}.`)
  }
}
