"""From masked vectors to one change that the server may believe, and the figures by which single devices stay out of sight.

What devices sent in a masked round comes in; the sum, its checks and its noise go out. The rounds call it."""
