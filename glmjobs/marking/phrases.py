"""The phrases by which Chinese solutions conclude, take back, deny, suppose, check and remark, as patterns.

All are matched against normalised text (half width, simplified script), one sentence at a time, and are
linear in it.
"""

from __future__ import annotations

import re

from glmjobs.marking.normalise import BOX_OPEN

STRONG = re.compile(

        r"(?:最终|最后|正确|本题|参考|标准|我的|那么|所以|因此|"
        r"故)?的?(?<!写出)(?<!检验)答案(?:应该|应当|应|就|依次|分别|仍然|仍|还|便|只能|"
        r"才)?(?:是|为|等于|:|=|选|\s?(?=[\d⟦A-H]))|答案(?=[\d⟦])|"
        r"^\s?\[?答案?\]?(?:案)?\s?[:,]?(?=.)(?<=[:,\]])|(?:[,;。\s)])答[:,]|"
        r"^答(?=[\d\u4e00-\u9fff])(?!案|题|应|了|错|对|出|卷|完|复|得)|"
    r"(?i:\banswer\b\s?(?:is|:|=)?)|####|" + BOX_OPEN +
        "|(?:故|应|因此|所以|应该|因而|即|答案)?(?:选择|选)[项:]?(?=[是为]?\\s?[(\\[]?[A-H])|"
        "综上(?:所述)?|最[终后](?:的)?(?:结果|得数|结论|答复|得出|得到|算得|答)|结论[:是为]|"
        "[是为]正确答案"
)  # fmt: skip
"""What marks a final answer: 答案是, 答：, a box, 故选, ####."""

MEDIUM = re.compile(
    "所以|因此|因而|(?<!事)故(?!事|意|障|乡)|于是|从而|可见|可知|由此|得出|求得|算得|解得|"
    "[得]到|总之|也就是|这样|那么|即(?!使|将|便)|最终|最后|结果[是为:]|得数|∴|"
    "(?i:therefore|\\bthus\\b|\\bhence\\b|\\bso\\b)|显然|说明[^:]|应(?:该|当)?[是为]|"
    "一共[需有是要]|总共|[得]:"
)
"""What draws a conclusion, the final one or one on the way: 所以, 因此, 得到."""

HARD = re.compile(
    "(?:^|[,。])(?:哦|啊|噢|呃|嗯|唉|哎)?不[,!。](?=.)|口误|笔误|"
    "(?<![A-H])(?<!项)(?<!是不)(?<!对)(?:不对(?!称|等|应)|错了(?!\\?)|算错|写错|看错|说错|"
    "搞错|弄错|答错|抄错|想错|漏[算看掉乘加减]了|忘[了记](?:乘|加|减|算|除|减去|加上)|有误|"
    "作废|撤回|收回|更正|纠正|修正|订正|改正|(?:答案|结果|结论)(?:是)?(?:错|不正确|不成立)|"
    "并不正确|不正确|前面的不算|以上不算|上面不算|划掉|改[为成](?!本)|推翻|"
    "误[算看写](?!为))"
)
"""What takes an answer back: 不对, 算错了, 更正."""

ABOUT_A_CLAIM = re.compile(
    "(?:所以|因此)?(?:这|该|此|题中|上述|原)(?:个|种|一)?(?:说法|命题|判断|结论|句话|观点)"
)
"""这个说法不正确 answers whether it is right, and takes nothing back."""

SOFT = re.compile(
    "等等|等一下|抱歉|对不起|重新(?:计算|算|来|审|考虑|检查|看|思考|分析|整理)|"
    "再算一[次遍]|再想想|仔细(?:看|想|一)|其实|实际上(?:应|是)|准确地说|(?i:wait|sorry|"
    "correction|actually)"
)
"""Second thoughts that may or may not change the answer: 等等, 重新算."""

RIGHT_AFTER_ALL = re.compile("没有?(?:算)?错|正确无误|并没有错|不会错|无误|是对的|没问题")
"""A confirmed answer stays."""

CHECK = re.compile(
    "^\\s?[(\\[]?(?:验算|检验|验证|检查|代入(?:检验|验证|原)|核对|反过来|倒推|复查|验一下|"
    "检验一下|验算一下|把?.{0,12}代入|可以?验证|我们可以(?:验证|检验|检查)|经(?:检验|验证|"
    "检查|验算)(?=[:,]?[^是为]{0,20}=))"
)
"""Checks of an answer already given: 验算, 代入."""

REMARK = re.compile(
    '^\\s?[(\\["]?(?:注意?[:：,]|注意|备注|提示|说明[:]|ps[:：]|另外|此外|顺便|补充|拓展|'
    "思考[:]|举一反三|练一练|小结|点评|评注|值得|例如|比如|举例|类似|常见错误|易错|有人|有的(?:同学|人)|"
    "有些|有同学|某同学|错误[解答]|误以为|错解|如果把|如果误|错误的|别忘|千万别|记得|温馨|"
    "附|扩展|延伸|变式|反思|同理可以|这道题考|本题考|知识点|考点|顺带|补一句|多说一句|"
    "相比之下|作为对比|参考[:]|题外|原题|题目[:]|已知[:]|若改|换成|要是改|可能有人|"
    "或许有人|也许有人|不少人|很多人|许多人|许多同学|很多同学)",
    re.IGNORECASE,
)
"""Remarks, other people's errors, examples."""

MARKING = re.compile(
    "评分|满分|(?:请|应)(?:酌情)?[扣给加](?:我)?分|阅卷|打分|判(?:为|作|定|卷|分|对|我)|评卷|批改|得分[:]|请给|(?:我的?|这个|"
    "此|该|以上|上述)?(?:回答|作答|解答|解法)(?:是|完全|绝对)?正确|与(?:参考|"
    "标准)答案(?:一致|相同|相符)|(?i:grader|grading|mark(?:ed)? (?:this|as|it)|verdict|"
    "full marks|is correct)|应判|算作正确|视为正确|correct\\s?[:=]|自评|参考答案也"
)
"""Claims about the solution's own marking, which no marker believes."""

HYPOTHETICAL = re.compile(
    '^\\s?[(\\["]?(?:但是?|不过|而|当然)?,?(?:假如|假设|假若|要是|倘若|设想|万一|反之|'
    "反过来说|若是|若(?!干)|如果|假定|试想|如(?=每|改|再|多|少))"
)
"""Suppositions: 如果, 假如."""

REFUTED = re.compile("((?:不符|矛盾|不合|不可能|不成立|不满足)[^,。;]{0,6}[,。;])(?=所以|因此|故|应|可见)")
"""A supposition refuted, after which the truth is concluded: 如果…, 与题意不符, 所以…."""

UNDETERMINED = re.compile(
    "(?:无法|不能|没法|没有办法|难以)(?:确定|求出|求解|算出|计算|得出|判断|解答|回答|知道)|(?:条件|信息)(?:不足|不够|不全)|要看题目|看题目怎么|"
    "缺少(?:条件|信息)"
)
"""An answer refused: 条件不足，无法确定."""

REASON = re.compile("^\\s?(?:(?:这是)?(?:因为|由于|理由|原因))")
"""A reason for an answer already given."""

EXPLAINED = re.compile("^\\s?(?:解释|解析|说明|分析|(?:解题)?过程|详解)\\s?:?")
"""What opens an explanation after an answer already given."""

SOLVED = re.compile(r"^\s?(?:解得|得到?|所以|因此)?[:,]?\s?[a-zA-Z]\s?=\s?[\d./]+[。,;]?\s*$")
"""An unknown's value, alone in its sentence: t=1."""

DIFFERENCE = re.compile("便宜|优惠|节[省约]|剩|余|[多少]了|相差|找回|比[^,。;例值]{1,8}[多少大小高低长短]")
"""What makes a value a difference or a rest."""

AT_THAT_TIME = re.compile("(?:此时|这时|那时)")
"""What opens a remark on the moment that was found."""

OTHER_WAY = re.compile("^\\s?(?:(?:另一?种)?(?:解法|方法)[二三2-3]|另解)\\s?:?")
"""What opens another way to an answer already given."""

REASON_CONCLUDES = re.compile(r"(?:所以|因此|故)[^,。;]{0,16}?(?:是|为|=|等于|有|:)\s?-?\d")
"""Where a reason itself ends in an answer: 因为…，所以共有9个."""

CONCLUDES = re.compile("^\\s?(?:所以|因此|故|答:)[^=]*[是为有]")
"""A sentence that is nothing but a conclusion."""

NEXT_TASK = re.compile(
    r"^\s?(?:\[?(?:问题|题目|问|例题|练习题?|下一题|新题|Q|Question|Human|User|用户)\]?\s?[\d一二三四五]{0,2}\s?:)(?=.)"
)
"""The start of another task, which a model may make up after its answer: 问题：, Human:."""

STEP = re.compile(
    "^\\s?[(\\[]?(?:首先|第[一二三四1-9]步|步骤|接下来|接着|下一步|下面|然后|再(?!见)|先|"
    "我们(?:需要|可以|先|要)|需要(?:先|计算|求)|要求|为了|已知|题目|根据题|由题|因为|由于|"
    "设|令|解[:]|分析|思路|让我|现在(?:来|我们|计算|求|要)|计算(?:过程|步骤)?[:]|列式)"
)
"""Announced steps, which conclude nothing."""

DENIED = re.compile(
    "(?:答案|结果)?(?:而|并|绝|决|也|当然)?(?:不|非|并非)(?:可能|应该|应当|应|会|能|再|"
    "一定)?(?:是|为|等于|选|得|取|算作|写成|等同于)(?!否)[^,。;、而]*(?:,?而(?=是|为|应))?|"
    "而(?:非|不是)[^,。;]*|≠\\s?[-\\d./]+[\u4e00-\u9fff]?|"
    "(?:排除|否定|去掉(?![的一后])|舍去|不选|舍弃|不能选)(?:了)?[^,。;]*|[^,。;]*(?:是错误的|是错的|"
    "不成立|不正确|不符合[^,。;]*|不合题意|应?舍去|(?:是)?不对的?|太[大小多少]了)"
)
"""What a statement denies: 不是6 (而是9)."""

NOT_EXACTLY = re.compile("(?:超过|大于|小于|多于|少于|不到|不足|低于|高于|接近|将近|不止|至多不超过)\\s?$")
"""Bounds: 超过9 is not 9."""

OR = re.compile(
    "或者?(?:是|许是)?|还是(?=\\d)|也(?:可能|许|可以)是|要么|~|至(?=\\d)|(?<![得达找])到(?=\\d)|不是.*就是"
)
"""What joins competing answers."""

QUESTION_END = re.compile(
    r"\?\s*[)\"\]]?\s*$|(?:是|有|为|要|需|剩|共)(?:多少|几)[\u4e00-\u9fff]{0,4}[。:,]?\s*$"
)
"""The end of a question, or of a sentence whose value is still open."""

UNFINISHED = re.compile(
    r"[=+\-×*÷/(,、:≈]\s*$|(?:因此|所以|因为|由于|然后|接着|再|故|的|是|为|于|有|得|还剩|共|"
    r"和|用|需要|需|要|每|计算|减去|加上|乘以|除以|乘|除|加|减|即|则|那么)[,:]?\s*$"
)
"""A sentence broken off before its value."""

CLAIM = re.compile(
    "认为|以为|觉得|误|(?:同学|有人|小[一-鿿])[^,。]{0,6}(?:说|算成|算出|写成|得出|得到)|"
    "乍一看|看起来|看似|似乎|起初|一开始|本来"
)
"""Somebody's opinion, or a first impression."""

DENIES = re.compile("(?:这是?|是|这样)?(?:不对|错误|不正确|错)的?[,;]")
"""The end of somebody's wrong opinion."""

TURN = re.compile(
    "(?:但是?|可是|然而|不过)?(?:其实|实际上|事实上|正确(?:的)?(?:答案|结果|做法|"
    "算法)?(?:应该?|却)?(?:是|为|:)|应该?(?:是|为)|真正的)"
)
"""The turn from it to the truth: 其实, 实际上."""

DANGLING = re.compile(
    r"[,;:。\s]\s?(?:因此|所以|因为|由于|然后|接着|再|故|那么|即|则|答|于是|接下来|最后|"
    r"综上)[,:]?\s*$"
)
"""A connective after which nothing comes."""

ENDS_WELL = re.compile(r"[。!?.;)\]⟧\"%]\s*$")
"""The end of a complete sentence."""

CLOSING = re.compile(
    "希望|祝|以上|谢谢|完毕|欢迎|就是(?:这道题|本题)|解答完|帮助|如有|请告诉我|作答|解题过程"
)
"""Pleasantries at the end."""

SAME_AS = re.compile("^[,(]?(?:也就是|即|就是|等于|换算成?|合)(?:约|为|是)?\\s?$")
"""What restates a value in another unit: 即, 也就是."""
