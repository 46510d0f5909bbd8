/** Files of docs/ that are made from the sources: `npm run generate` writes them, test/docs.test.ts compares them. */
import { type SchemaName, schemaNames, schemaOf } from '../src/cli/schemas.ts'
import { apiReference } from './reference-api.ts'
import { commandLineReference } from './reference-cli.ts'

/** Text by path from the root of the checkout. */
export async function generatedFiles(): Promise<Map<string, string>> {
  const files = new Map<string, string>()
  for (const name of Object.keys(schemaNames) as SchemaName[])
    files.set(`docs/schemas/${name}.schema.json`, `${JSON.stringify(schemaOf(name), undefined, 1)}\n`)
  files.set('docs/reference/cli.md', commandLineReference())
  files.set('docs/reference/api.md', await apiReference())
  return files
}
