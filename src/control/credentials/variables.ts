/** Which variables a job finds for a credential that it names, as the programs of that service read them. */
import type { CredentialKind, CredentialValues } from '../../api/control/credentials.ts'
import { UserError } from '../../base/errors.ts'
import type { Store } from '../store/store.ts'
import { credentialsOf, openCredential } from './credentials.ts'
import type { Sealer } from './sealer.ts'

type Values<Kind extends CredentialKind> = Extract<CredentialValues, { kind: Kind }>
type Variables = Readonly<Record<string, string | undefined>>

/** One rule per kind; `undefined` for those that are no use in an environment. */
const rules: { readonly [Kind in CredentialKind]: ((values: Values<Kind>) => Variables) | undefined } = {
  wandb: ({ api_key, host }) => ({ WANDB_API_KEY: api_key, WANDB_BASE_URL: host }),
  mlflow: ({ token, username, password }) => ({
    MLFLOW_TRACKING_TOKEN: token,
    MLFLOW_TRACKING_USERNAME: username,
    MLFLOW_TRACKING_PASSWORD: password,
  }),
  huggingface: ({ token, endpoint }) => ({ HF_TOKEN: token, HF_ENDPOINT: endpoint }),
  s3: ({ access_key_id, secret_access_key, session_token, endpoint, region }) => ({
    AWS_ACCESS_KEY_ID: access_key_id,
    AWS_SECRET_ACCESS_KEY: secret_access_key,
    AWS_SESSION_TOKEN: session_token,
    AWS_ENDPOINT_URL: endpoint,
    AWS_REGION: region,
  }),
  'azure-blob': ({ account, key, sas_token }) => ({
    AZURE_STORAGE_ACCOUNT: account,
    AZURE_STORAGE_KEY: key,
    AZURE_STORAGE_SAS_TOKEN: sas_token,
  }),
  slack: ({ webhook_url }) => ({ SLACK_WEBHOOK_URL: webhook_url }),
  gcs: undefined,
  docker: undefined,
  kubernetes: undefined,
  ssh: undefined,
}

interface Vault {
  readonly store: Store
  readonly sealer: Sealer
}

/** Throws UserError for a name that the project does not have, or whose kind no job can be given. */
export async function checkJobCredentials(
  { store }: Vault,
  project: string,
  names: readonly string[],
): Promise<void> {
  for (const name of names) {
    const row = await credentialsOf(store).named(project, name)
    if (row === undefined)
      throw new UserError(`The project has no credential ${name}.`, {
        failure: 'not_found',
        fix: `ropeway credential create ${name} --kind KIND`,
      })
    if (rules[row.spec.kind] === undefined)
      throw new UserError(`The credential ${name} is for ${row.spec.kind}, which jobs find in no variable.`, {
        failure: 'usage',
        fix: `Jobs take those of kind ${kindsOfJobs.join(', ')}.`,
      })
  }
}

const kindsOfJobs = Object.entries(rules).flatMap(([kind, rule]) => (rule === undefined ? [] : [kind]))

/** The variables of all of them; of two that set the same one, the later one counts. See {@link openCredential}. */
export async function jobVariables(
  vault: Vault,
  project: string,
  names: readonly string[],
): Promise<Record<string, string>> {
  await checkJobCredentials(vault, project, names)
  const found: Record<string, string> = {}
  for (const name of names) {
    const { kind } = (await credentialsOf(vault.store).named(project, name))!.spec
    const values = await openCredential(vault, project, name, kind)
    const rule = rules[kind] as (values: CredentialValues) => Variables
    for (const [variable, value] of Object.entries(rule(values)))
      if (value !== undefined) found[variable] = value
  }
  return found
}
