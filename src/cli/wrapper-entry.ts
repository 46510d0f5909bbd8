/** The file that the parent process of a local run's member runs: in this folder in the source tree, beside this one in dist. */
export function wrapperEntry(): URL {
  const suffix = import.meta.url.endsWith('.ts') ? '.ts' : '.js'
  return new URL(`./run-wrapper${suffix}`, import.meta.url)
}
