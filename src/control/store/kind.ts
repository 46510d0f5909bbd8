import { UserError } from '../../base/errors.ts'

export type StoreKind = 'libsql' | 'postgres'

/** Which database a URL or a path means. */
export function kindOf(url: string): StoreKind {
  if (/^postgres(ql)?:\/\//.test(url)) return 'postgres'
  if (!/^[a-z][a-z0-9+.-]+:\/\//i.test(url)) return 'libsql'
  throw new UserError(`${url.slice(0, url.indexOf(':'))}:// is no database that Ropeway knows.`, {
    failure: 'usage',
    fix: 'Give postgres://USER:PASSWORD@HOST/DATABASE, or the path of a file.',
  })
}
