/**
 * What a record holds under a name that somebody typed. A plain look would find `constructor` and the like, which every
 * object inherits.
 */
export function ownValue<Value>(record: Readonly<Record<string, Value>>, name: string): Value | undefined {
  return Object.hasOwn(record, name) ? record[name] : undefined
}
