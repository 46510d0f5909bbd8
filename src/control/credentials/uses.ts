/** What names credentials. Each room says what of its nouns does; none of them keeps a count. */
import { type CredentialUse, listCredentialUses } from '../../api/control/credentials.ts'
import type { RouteModule } from '../service/routes.ts'

/** All that names a credential in a project. */
export type CredentialUsesIn = (project: string) => Promise<readonly CredentialUse[]>

export function credentialUseRoutes(uses: readonly CredentialUsesIn[]): RouteModule {
  return (serve) => {
    serve(listCredentialUses, async ({ project }) => {
      const found = await Promise.all(uses.map((usesIn) => usesIn(project.id)))
      return { items: found.flat() }
    })
  }
}
